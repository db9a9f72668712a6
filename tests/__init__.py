"""The test-suite of trio-smtp."""
