"""The recipe section `curate`: rules told apart by `rule`. One module of configs for each family."""
