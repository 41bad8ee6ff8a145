"""`python -m nero_lab` is `nero`: what torchrun starts, `torchrun ... -m nero_lab train ...`."""

from nero_lab.cli.app import main

main()
