"""Attacks that ask for answers and follow no gradient of the network."""
