"""Django's settings of the tests: mail goes to the fixture's server."""

import django
import pytest
from django.conf import settings

from trio_smtp.testing import MailServer


@pytest.fixture(scope="session", autouse=True)
def project(mailserver_session: MailServer) -> None:
    """A project with pytest-django would override these settings of its own settings module."""
    settings.configure(DEFAULT_FROM_EMAIL="Shop <mail@shop.example>", **mailserver_session.django_settings())
    django.setup()
