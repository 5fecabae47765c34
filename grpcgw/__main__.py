"""`python -m grpcgw`: the same as the command `grpcgw`."""

from grpcgw.cli.main import main

if __name__ == "__main__":
    main()
