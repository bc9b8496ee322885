"""The command `boxnn` as ``python -m boxnn_numba``."""

from boxnn_numba.cli.main import main

if __name__ == "__main__":
    main()
