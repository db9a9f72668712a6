"""Tests of the shop's mail: ``pytest examples/django_shop`` with Django installed."""

import smtplib

import pytest
import shop

from trio_smtp.testing import MailServer


def test_the_code_comes_in_text_and_html(mailserver: MailServer) -> None:
    shop.confirm("bob@example.com", "4711")
    mail = mailserver.only()
    assert mail.from_ == "mail@shop.example"
    assert mail.code() == "4711"
    assert "<b>4711</b>" in mail.html


def test_the_books_get_a_copy_that_nobody_sees(mailserver: MailServer) -> None:
    shop.invoice("bob@example.com", 7, b"%PDF-1.7")
    mail = mailserver.wait_for(to="books@*")
    assert mail.to == ["bob@example.com"]
    assert mail.bcc == ["books@shop.example"]
    assert mail.attachments["invoice-7.pdf"].content == b"%PDF-1.7"


def test_a_greylisted_mail_is_tried_again(mailserver: MailServer) -> None:
    rule = mailserver.fail(at="rcpt", to="bob@*", code=451, times=2)
    shop.confirm("bob@example.com", "4711")
    assert rule.hits == 2
    assert len(mailserver.messages) == 1


def test_an_unknown_address_is_not_tried_again(mailserver: MailServer) -> None:
    rule = mailserver.fail(at="rcpt", to="bob@*", code=550, text="No such user")
    with pytest.raises(smtplib.SMTPRecipientsRefused):
        shop.confirm("bob@example.com", "4711")
    assert rule.hits == 1
