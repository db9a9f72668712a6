"""Tests of trio_smtp.client."""
