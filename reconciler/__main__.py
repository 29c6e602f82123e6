"""`python -m reconciler` is `reconciler`."""

import signal
from importlib import import_module


def load_and_run() -> None:
    """Load the command line and run it; Ctrl-C meanwhile ends it as any program, without a traceback."""
    handler = signal.getsignal(signal.SIGINT)
    if handler is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    main = import_module("reconciler.cli.main").main
    signal.signal(signal.SIGINT, handler)
    main()


if __name__ == "__main__":
    load_and_run()
