"""An SMTP server library for Trio: structured concurrency from the socket to the handler."""

from .app import App as App
from .app import CallNext as CallNext
from .app import Filter as Filter
from .app import Handler as Handler
from .app import Middleware as Middleware
from .app import Plugin as Plugin
from .config import Config as Config
from .contexts import AuthContext as AuthContext
from .contexts import CloseContext as CloseContext
from .contexts import CommandContext as CommandContext
from .contexts import ConnectContext as ConnectContext
from .contexts import DataContext as DataContext
from .contexts import DataStartContext as DataStartContext
from .contexts import HeloContext as HeloContext
from .contexts import MailFromContext as MailFromContext
from .contexts import RcptToContext as RcptToContext
from .contexts import SecureContext as SecureContext
from .contexts import VerifyContext as VerifyContext
from .extensions import Extension as Extension
from .message import MessageIncomplete as MessageIncomplete
from .message import MessageMalformed as MessageMalformed
from .message import MessageStream as MessageStream
from .message import MessageTooLarge as MessageTooLarge
from .message import StreamConsumed as StreamConsumed
from .protocol.addresses import Address as Address
from .protocol.credentials import CramMD5Credentials as CramMD5Credentials
from .protocol.credentials import Credentials as Credentials
from .protocol.credentials import ExternalCredentials as ExternalCredentials
from .protocol.credentials import OAuthCredentials as OAuthCredentials
from .protocol.credentials import PlainCredentials as PlainCredentials
from .protocol.credentials import ScramCredentials as ScramCredentials
from .protocol.credentials import ScramSecret as ScramSecret
from .protocol.credentials import XClientCredentials as XClientCredentials
from .protocol.errors import ProtocolError as ProtocolError
from .protocol.errors import SMTPError as SMTPError
from .protocol.parameters import DeliverBy as DeliverBy
from .protocol.parameters import DSNEnvelope as DSNEnvelope
from .protocol.parameters import DSNRecipient as DSNRecipient
from .protocol.proxy import ProxyHeader as ProxyHeader
from .protocol.replies import Reply as Reply
from .protocol.sasl import Mechanism as Mechanism
from .protocol.sasl import SASLContext as SASLContext
from .server import SMTPServer as SMTPServer
from .server import serve as serve
from .session import Envelope as Envelope
from .session import Session as Session
from .session import TLSInfo as TLSInfo
from .stats import Stats as Stats
from .tls import create_context as create_context
from .workers import serve_workers as serve_workers

__all__ = [
    "Address",
    "App",
    "AuthContext",
    "CallNext",
    "CloseContext",
    "CommandContext",
    "Config",
    "ConnectContext",
    "CramMD5Credentials",
    "Credentials",
    "DSNEnvelope",
    "DSNRecipient",
    "DataContext",
    "DataStartContext",
    "DeliverBy",
    "Envelope",
    "Extension",
    "ExternalCredentials",
    "Filter",
    "Handler",
    "HeloContext",
    "MailFromContext",
    "Mechanism",
    "MessageIncomplete",
    "MessageMalformed",
    "MessageStream",
    "MessageTooLarge",
    "Middleware",
    "OAuthCredentials",
    "PlainCredentials",
    "Plugin",
    "ProtocolError",
    "ProxyHeader",
    "RcptToContext",
    "Reply",
    "SASLContext",
    "SMTPError",
    "SMTPServer",
    "ScramCredentials",
    "ScramSecret",
    "SecureContext",
    "Session",
    "Stats",
    "StreamConsumed",
    "TLSInfo",
    "VerifyContext",
    "XClientCredentials",
    "create_context",
    "serve",
    "serve_workers",
]
