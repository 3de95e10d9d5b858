"""What must come out right in a measurement, or its figures are not to be relied on."""
