"""`python -m episodic.demo run=<dir> [port=8000] [semi=...]`.

Serves a page on this machine. In a browser one gives it examples of a few classes, and it names other pictures.
"""

from __future__ import annotations

from omegaconf import DictConfig

from episodic.assemble.model_choice import UNREAD, check_seed, with_parts
from episodic.config.command import command
from episodic.config.compose import ConfigError
from episodic.demo.answer import Demo
from episodic.demo.server import DemoServer


def main(cfg: DictConfig) -> None:
    """Serve the page until Ctrl-C."""
    port = cfg.port
    if not isinstance(port, int) or isinstance(port, bool) or not 0 <= port < 2**16:
        raise ConfigError(f"port must be a number from 0 (one that is free) to 65535, got {port!r}")
    check_seed(cfg)
    demo = Demo(cfg)
    with DemoServer(demo, port) as server:
        try:
            print(f"{demo.about}.\nOpen {server.url} in a browser on this machine. Ctrl-C ends it.", flush=True)
            server.serve_forever()
        except KeyboardInterrupt:
            demo.stop()
            print("\nStopped.")


if __name__ == "__main__":
    command("demo", main, with_parts, UNREAD)
