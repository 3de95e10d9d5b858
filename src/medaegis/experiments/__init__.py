"""Experiments as data: a TOML file says what is measured, a plan what it takes, a store keeps what is done."""
