"""`python -m ae COMMAND`, as `ae COMMAND`."""

from ae.commands import main

main()
