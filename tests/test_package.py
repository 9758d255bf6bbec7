import pytest

import dqn_lightning


def test_the_packages_names_are_found_when_they_are_asked_for() -> None:
    for name in dqn_lightning.__all__:
        assert getattr(dqn_lightning, name).__name__ == name
    assert set(dqn_lightning.__all__) <= set(dir(dqn_lightning))
    with pytest.raises(AttributeError, match="has no attribute 'DQN'"):
        _ = dqn_lightning.DQN
