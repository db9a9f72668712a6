"""Tests of trio_smtp.testing.MailServer and the pytest plugin."""
