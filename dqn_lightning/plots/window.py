"""Function that shows a video in a window while its frames are being computed."""

import time
from collections.abc import Iterable

from PIL import Image

from dqn_lightning.errors import ConfigError
from dqn_lightning.plots.video import TimedFrame

_MAX_WAIT_S = 0.05  # keeps the window and Ctrl-C responsive


def show_video(title: str, timed_frames: Iterable[TimedFrame]) -> None:
    """Show frames in a window until the video ends or the window is closed.

    Args:
        title: Title of the window.
        timed_frames: Frames to show. While a frame is shown, the next one is computed.

    Raises:
        ConfigError: If no window can be opened.
    """
    import pygame

    try:
        pygame.display.init()
    except pygame.error as error:
        raise ConfigError(
            f"--out: cannot open a window ({error}); name a file, such as --out video.gif"
        ) from error
    try:
        pygame.display.set_caption(title)
        shown_until = time.monotonic()
        for timed_frame in timed_frames:
            if _closed_before(shown_until):
                return
            _show_frame(timed_frame.frame)
            shown_until = max(shown_until, time.monotonic()) + timed_frame.seconds
        _closed_before(shown_until)
    finally:
        pygame.display.quit()


def _show_frame(frame: Image.Image) -> None:
    import pygame

    window = pygame.display.get_surface()
    if window is None or window.get_size() != frame.size:
        window = pygame.display.set_mode(frame.size)
    window.blit(pygame.image.frombuffer(frame.tobytes(), frame.size, "RGB"), (0, 0))
    pygame.display.flip()


def _closed_before(end: float) -> bool:
    """Return whether the window is closed before `time.monotonic()` reaches `end`.

    The function blocks until one of the two happens.
    """
    import pygame

    while True:
        if pygame.event.get(pygame.QUIT):
            return True
        left = end - time.monotonic()
        if left <= 0:
            return False
        time.sleep(min(left, _MAX_WAIT_S))
