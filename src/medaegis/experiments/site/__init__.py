"""One static web site of a store of experiments and of entries that others hand in."""
