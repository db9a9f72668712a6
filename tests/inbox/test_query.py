"""The search language: how it is read, and that SQL and its definition find the same."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trio_smtp.inbox.store import Arrival, Headline, Mailbox, Query, parse_query
from trio_smtp.inbox.store.query import Term
from trio_smtp.inbox.store.records import fold
from trio_smtp.inbox.store.store import Limits, Store


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("", []),
        ("hello", [Term("text", "hello")]),
        ("Hello WORLD", [Term("text", "hello"), Term("text", "world")]),
        ('"hello world"', [Term("text", "hello world")]),
        ('subject:"hello world"', [Term("subject", "hello world")]),
        ('"open', [Term("text", "open")]),
        ("-from:Bob", [Term("from", "bob", True)]),
        ("!is:read", [Term("read", True, True)]),
        ("is:unread", [Term("read", False)]),
        (
            "is:tagged has:attachments has:inline",
            [Term("tagged", True), Term("attachment", True), Term("inline", True)],
        ),
        ("is:nothing", [Term("text", "is:nothing")]),
        ("tag:Work", [Term("tag", "work")]),
        ("larger:2k smaller:1.5MB", [Term("larger", 2048), Term("smaller", 1_572_864)]),
        ("to: from:", []),
        ('- ! -- ... ""', []),
        ("Grün", [Term("text", "grün")]),
        ("STRASSE", [Term("text", "strasse")]),
        ("🎉", [Term("text", "🎉")]),
        ("message-id:<A@b>", [Term("message-id", "<a@b>")]),
        ("http://x", [Term("text", "http://x")]),
    ],
)
def test_what_is_read(text: str, terms: list[Term]) -> None:
    assert parse_query(text).terms == tuple(terms)
    assert bool(parse_query(text)) is bool(terms)


@pytest.mark.parametrize(
    ("text", "timezone", "moment"),
    [
        ("2026", "UTC", datetime(2026, 1, 1, tzinfo=UTC)),
        ("2026-05", "UTC", datetime(2026, 5, 1, tzinfo=UTC)),
        ("2026/5/31", "UTC", datetime(2026, 5, 31, tzinfo=UTC)),
        ("2026-05-31T18:30", "UTC", datetime(2026, 5, 31, 18, 30, tzinfo=UTC)),
        ("2026-05-31T18:30+02:00", "America/New_York", datetime(2026, 5, 31, 16, 30, tzinfo=UTC)),
        ("2026-05-31T18:30Z", "", datetime(2026, 5, 31, 18, 30, tzinfo=UTC)),
        ("2026-05-31", "Asia/Tokyo", datetime(2026, 5, 30, 15, tzinfo=UTC)),
    ],
)
def test_dates(text: str, timezone: str, moment: datetime) -> None:
    (term,) = parse_query(f"after:{text}", timezone).terms
    assert term == Term("after", moment.timestamp())


@pytest.mark.parametrize("zone", ["", "Nowhere/Land", "../etc/passwd", "Europe", "x" * 500, "a\0"])
def test_zones_that_are_not_known_are_this_machines(zone: str) -> None:
    (term,) = parse_query("after:2026-05-31", zone).terms
    assert term.value == datetime(2026, 5, 31).timestamp()  # noqa: DTZ001 - this machine's


def test_today_and_yesterday() -> None:
    midnight = datetime.now().astimezone().replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=None)
    assert parse_query("after:today").terms[0].value == midnight.timestamp()
    assert parse_query("before:yesterday").terms[0].value == (midnight - timedelta(days=1)).timestamp()


@pytest.mark.parametrize(
    "text", ["after:2026-13", "before:tomorrow", "after:0000", "larger:many", "smaller:1xb", "x" * 2001, "x " * 51]
)
def test_what_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"needs a|has at most"):
        parse_query(text)


@given(st.text(max_size=200), st.text(max_size=20))
def test_whatever_is_typed_is_read_or_refused(text: str, zone: str) -> None:
    try:
        query = parse_query(text, zone)
    except ValueError as error:
        assert "needs a" in str(error)  # noqa: PT017 - not always
    else:
        assert isinstance(query, Query)


# SQL and the definition

_WORDS = st.sampled_from(["a", "ab", "abc", "Abcd", "b c", 'q"q', "%", "_", "é", "\0x", "needle", "İ", "ß"])
_LINES = st.lists(_WORDS, max_size=4).map(" ".join)
_BOXES = st.lists(st.builds(Mailbox, _WORDS, st.sampled_from(["bob@x", "eve@y"])), max_size=2).map(tuple)
_TAGS = st.lists(st.sampled_from(["work", "Home", "é"]), max_size=2).map(tuple)


@st.composite
def headlines(draw: st.DrawFn) -> Headline:
    return Headline(
        message_id=draw(_WORDS),
        subject=draw(_LINES),
        sender=draw(st.one_of(st.none(), _BOXES.map(lambda boxes: boxes[0] if boxes else None))),
        to=draw(_BOXES),
        cc=draw(_BOXES),
        bcc=draw(_BOXES),
        reply_to=draw(_BOXES),
        attachments=draw(st.integers(0, 1)),
        inline=draw(st.integers(0, 1)),
        tags=draw(_TAGS),
        text=draw(_LINES),
    )


@st.composite
def queries(draw: st.DrawFn) -> Query:
    term = st.one_of(
        st.builds(Term, st.just("text"), _WORDS.map(fold), st.booleans()),
        st.builds(
            Term,
            st.sampled_from(["from", "to", "cc", "bcc", "reply-to", "addressed", "subject", "message-id"]),
            _WORDS.map(fold),
            st.booleans(),
        ),
        st.builds(Term, st.just("tag"), st.sampled_from(["work", "home", "none"]), st.booleans()),
        st.builds(Term, st.sampled_from(["read", "tagged", "attachment", "inline"]), st.booleans(), st.booleans()),
        st.builds(Term, st.sampled_from(["before", "after"]), st.just(1000.5), st.booleans()),
        st.builds(Term, st.sampled_from(["larger", "smaller"]), st.just(5), st.booleans()),
        st.builds(
            Term, st.just("state"), st.sampled_from(["accepted", "refused", "broken", "failed", "any"]), st.booleans()
        ),
    )
    return Query(tuple(draw(st.lists(term, max_size=3))))


def words_of(*boxes: Mailbox | None) -> str:
    return fold("\n".join(str(box) for box in boxes if box is not None))


def holds(term: Term, arrival: Arrival) -> bool:
    """What a term means."""
    headline, value = arrival.headline, term.value
    lists = {
        "from": words_of(headline.sender),
        "to": words_of(*headline.to),
        "cc": words_of(*headline.cc),
        "bcc": words_of(*headline.bcc),
        "reply-to": words_of(*headline.reply_to),
        "subject": fold(headline.subject),
        "message-id": fold(headline.message_id),
        "text": fold(headline.text),
    }
    size, created = len(arrival.octets), arrival.created
    match term.kind:
        case "addressed":
            found = any(str(value) in lists[name] for name in ("from", "to", "cc", "bcc", "reply-to"))
        case "tag":
            found = value in [fold(tag) for tag in headline.tags]
        case "read":
            found = value is False
        case "tagged":
            found = bool(headline.tags) is value
        case "attachment":
            found = bool(headline.attachments) is value
        case "inline":
            found = bool(headline.inline) is value
        case "before" | "after":
            # A moment belongs to both, negated or not, as in Mailpit.
            earlier = (term.kind == "before") is not term.negated
            return created <= float(value) if earlier else created >= float(value)
        case "larger" | "smaller":
            larger = (term.kind == "larger") is not term.negated
            return size > int(value) if larger else size < int(value)
        case "state":
            found = value in ("any", arrival.state) or (value == "failed" and arrival.state != "accepted")
        case kind:
            found = str(value) in lists[kind]
    return found is not term.negated


@pytest.fixture(scope="module", params=[True, False], ids=["trigrams", "without"])
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    made = Store(None, Limits(messages=500, size=2**24, age=None), trigrams=request.param)
    yield made
    made.close()


@given(
    data=st.lists(
        st.tuples(headlines(), st.sampled_from(["accepted", "refused", "broken"]), st.integers(4, 6)), max_size=4
    ),
    query=queries(),
    indexed=st.booleans(),
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_sql_finds_what_the_language_means(
    store: Store, data: list[tuple[Headline, str, int]], query: Query, indexed: bool
) -> None:
    store.delete(None)
    arrivals = [
        Arrival(
            headline=headline,
            octets=b"x" * size,
            envelope={},
            transcript=(),
            created=998.5 + number,
            state=state,  # type: ignore[arg-type] # one of the three
        )
        for number, (headline, state, size) in enumerate(data)
    ]
    ids = [store.add(arrival).id for arrival in arrivals]
    if indexed and store._trigrams:  # noqa: SLF001 - both with texts in the index and with texts beside it
        deadline = time.monotonic() + 10
        while store._one("SELECT indexed FROM progress WHERE ? = ''", "") != store._one(  # noqa: SLF001
            "SELECT IFNULL(MAX(seq), 0) FROM words WHERE ? = ''", ""
        ):
            assert time.monotonic() < deadline
            time.sleep(0.01)
    wanted = [
        identifier
        for identifier, arrival in zip(ids, arrivals, strict=True)
        if (query.chooses_state or arrival.state == "accepted") and all(holds(term, arrival) for term in query.terms)
    ]
    page = store.page(query)
    assert [row.id for row in page.rows] == wanted[::-1]
    assert page.count == page.unread == len(wanted)
    latest = store.latest(query)
    assert (latest.id if latest is not None else None) == (wanted[-1] if wanted else None)


def test_a_summary_is_what_was_added(store: Store) -> None:
    headline = Headline(subject="S", sender=Mailbox("N", "a@b"), to=(Mailbox("", "c@d"),), snippet="s", tags=("b", "A"))
    arrival = Arrival(headline=headline, octets=b"1234", envelope={"x": 1}, transcript=[{"y": 2}], created=5.5)
    added = store.add(arrival)
    assert store.find(added.id) == added
    assert added.tags == ("A", "b")
    assert added.headline == attrs.evolve(headline, tags=())
    assert store.envelope(added.id) == {"x": 1}
    assert store.transcript(added.id) == [{"y": 2}]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("needle", ["One"]),
        ("-needle", ["Two"]),
        ("needle words", ["One"]),
        ("needle -words", []),
        ("ne", ["One"]),
        ("-ne", ["Two"]),
        ("words", ["Two", "One"]),
        ('"needle and"', ["One"]),
        ("tag:work", ["One"]),
        ("-tag:work", ["Two"]),
        ("is:tagged", ["One"]),
        ("!is:tagged", ["Two"]),
        ("from:bob", ["Two"]),
        ("-from:bob", ["One"]),
        ("addressed:eve", ["One"]),
        ("is:any", ["Three", "Two", "One"]),
        ("is:failed", ["Three"]),
        ("-is:accepted", ["Three"]),
        ("larger:5", ["Two"]),
        ("-larger:5", ["One"]),
        ("before:1971", ["Two", "One"]),
        ("-before:1971", []),
    ],
)
def test_searches(store: Store, text: str, found: list[str]) -> None:
    store.delete(None)
    one = Headline(subject="One", to=(Mailbox("Eve", "e@x"),), tags=("work",), text="a needle and words")
    two = Headline(subject="Two", sender=Mailbox("", "bob@x"), text="other words")
    for headline, octets, state in ((one, b"1", "accepted"), (two, b"123456", "accepted"), (one, b"12345", "broken")):
        shown = attrs.evolve(headline, subject="Three") if state == "broken" else headline
        store.add(
            Arrival(
                headline=shown,
                octets=octets,
                envelope={},
                transcript=(),
                created=5,
                state=state,  # type: ignore[arg-type] # one of the three
            )
        )
    assert [row.headline.subject for row in store.page(parse_query(text)).rows] == found
