"""A window that shows a film as it is made."""

import time
from collections.abc import Iterable

from PIL import Image

from dqn_lightning.errors import ConfigError
from dqn_lightning.plots.film import Shot

_LONGEST_WAIT_S = 0.05  # so that the window and Ctrl-C are heeded soon


def show_film(title: str, shots: Iterable[Shot]) -> None:
    """Show each shot for its time, until the film ends or the window is closed.

    Raises:
        ConfigError: If no window can be opened.
    """
    import pygame

    try:
        pygame.display.init()
    except pygame.error as error:
        raise ConfigError(
            f"--film: no window can be opened ({error}); name a file, as --film film.gif"
        ) from error
    try:
        pygame.display.set_caption(title)
        until = time.monotonic()
        for shot in shots:  # the next is made while this one is shown
            if _closed_before(until):
                return
            _show(shot.frame)
            until = max(until, time.monotonic()) + shot.seconds
        _closed_before(until)
    finally:
        pygame.display.quit()


def _show(frame: Image.Image) -> None:
    import pygame

    window = pygame.display.get_surface()
    if window is None or window.get_size() != frame.size:
        window = pygame.display.set_mode(frame.size)
    window.blit(pygame.image.frombuffer(frame.tobytes(), frame.size, "RGB"), (0, 0))
    pygame.display.flip()


def _closed_before(until: float) -> bool:
    """Wait; gives early whether the window was closed."""
    import pygame

    while True:
        if pygame.event.get(pygame.QUIT):
            return True
        left = until - time.monotonic()
        if left <= 0:
            return False
        time.sleep(min(left, _LONGEST_WAIT_S))
