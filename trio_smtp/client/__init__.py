"""A client for SMTP and LMTP: it pipelines, sends by DATA or BDAT, speaks TLS and AUTH, and keeps connections."""

from .body import NewlinePolicy as NewlinePolicy
from .client import Client as Client
from .connecting import Options as Options
from .connecting import TLSMode as TLSMode
from .connecting import connect as connect
from .errors import BareNewline as BareNewline
from .errors import DeliveryError as DeliveryError
from .errors import DeliveryFailed as DeliveryFailed
from .errors import DeliveryRefused as DeliveryRefused
from .errors import ExtensionMissing as ExtensionMissing
from .pool import Pool as Pool
from .results import BodyType as BodyType
from .results import Content as Content
from .results import EnvelopeOptions as EnvelopeOptions
from .results import Mail as Mail
from .results import Recipient as Recipient
from .results import Recipients as Recipients
from .results import SendResult as SendResult
from .results import TransactionOptions as TransactionOptions
from .sasl import Auth as Auth
from .sasl import BearerToken as BearerToken
from .sasl import External as External
from .sasl import Password as Password
from .timeouts import Timeouts as Timeouts
from .transaction import Transaction as Transaction
from .wire import Watcher as Watcher

__all__ = [
    "Auth",
    "BareNewline",
    "BearerToken",
    "BodyType",
    "Client",
    "Content",
    "DeliveryError",
    "DeliveryFailed",
    "DeliveryRefused",
    "EnvelopeOptions",
    "ExtensionMissing",
    "External",
    "Mail",
    "NewlinePolicy",
    "Options",
    "Password",
    "Pool",
    "Recipient",
    "Recipients",
    "SendResult",
    "TLSMode",
    "Timeouts",
    "Transaction",
    "TransactionOptions",
    "Watcher",
    "connect",
]
