"""Failures by rules, for tests of programs that send mail."""

from .acts import ACTS as ACTS
from .acts import PLACES as PLACES
from .acts import Act as Act
from .acts import BadCertificate as BadCertificate
from .acts import CertificateFault as CertificateFault
from .acts import CloseAfter as CloseAfter
from .acts import Delay as Delay
from .acts import Disconnect as Disconnect
from .acts import Fail as Fail
from .acts import Garbage as Garbage
from .acts import Greylist as Greylist
from .acts import NoStartTLS as NoStartTLS
from .acts import Place as Place
from .acts import RateLimit as RateLimit
from .acts import Reset as Reset
from .acts import Throttle as Throttle
from .acts import Truncate as Truncate
from .errors import RuleError as RuleError
from .facts import Facts as Facts
from .filters import FILTERS as FILTERS
from .filters import Filter as Filter
from .filters import PeerFilter as PeerFilter
from .forms import format_rule as format_rule
from .forms import parse_rule as parse_rule
from .forms import rule_from_json as rule_from_json
from .forms import rule_to_json as rule_to_json
from .plugin import GARBAGE as GARBAGE
from .plugin import faults as faults
from .rule import Rule as Rule
from .rules import AnyRule as AnyRule
from .rules import Rules as Rules
from .rules import When as When

__all__ = [
    "ACTS",
    "FILTERS",
    "GARBAGE",
    "PLACES",
    "Act",
    "AnyRule",
    "BadCertificate",
    "CertificateFault",
    "CloseAfter",
    "Delay",
    "Disconnect",
    "Facts",
    "Fail",
    "Filter",
    "Garbage",
    "Greylist",
    "NoStartTLS",
    "PeerFilter",
    "Place",
    "RateLimit",
    "Reset",
    "Rule",
    "RuleError",
    "Rules",
    "Throttle",
    "Truncate",
    "When",
    "faults",
    "format_rule",
    "parse_rule",
    "rule_from_json",
    "rule_to_json",
]
