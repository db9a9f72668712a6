"""The tests that are marked ``exhaustive``: `pytest -m "not exhaustive"` leaves out what costs most and shows least.

`.ci/run` runs the whole suite once, and most of it again in other surroundings: beside trio-typing, with the oldest
dependencies, under another interpreter, compiled. What differs there is what the library stands on. A table of
thousands of cuts, each system call that fails in turn, and the rules that the sources obey come out as before: they are
named here, by file, and a test goes by the beginning of its name. "" stands for all tests of a file.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["EXHAUSTIVE", "is_exhaustive"]

EXHAUSTIVE: Mapping[str, tuple[str, ...]] = {
    # Each cell of large tables, each cut of many octets.
    "dialogue/test_steps.py": ("test_the_order_of_steps_in_the_talks", "test_a_dialogue_may_be_closed_at_any_step"),
    "hostile/test_alerts.py": ("test_in_a_session",),
    "hostile/test_crashes.py": ("test_the_session_goes_on",),
    "hostile/test_crashing_hooks.py": ("test_a_tap",),
    "hostile/test_model.py": ("",),
    "hostile/test_smuggling.py": ("test_nothing_but_the_end_mark_ends_a_message",),
    "hostile/test_vanishing.py": ("test_a_client_that_vanishes_at_every_octet",),
    "protocol/test_body.py": ("test_every_mix_of_lines_with_and_without_dots",),
    "protocol/test_framing.py": ("test_the_buffer_is_bounded",),
    "protocol/test_newlines.py": ("test_every_short_body", "test_large_bodies", "test_around_the_longest_piece"),
    "protocol/test_proxy.py": ("test_local_has_its_block_skipped_unread_whatever_it_is",),
    "test_clock_table.py": ("test_each_cell",),
    "test_corpus.py": ("test_small_messages", "test_data"),
    "test_data.py": ("test_every_message_has_one_reply_and_what_follows_it_is_understood",),
    # Each system call that fails in turn.
    "hostile/test_descriptors.py": ("test_a_message_is_refused_for_now",),
    "hostile/test_nth_oserror.py": ("test_the_nth_call_fails", "test_every_error", "test_what_only_begins"),
    "hostile/test_nth_oserror_maildir.py": ("",),
    # Many processes, or seconds of real time.
    "hostile/test_slow.py": ("test_endless_talk_without_a_message", "test_a_flood_of_connections"),
    "test_benchmarks.py": ("",),
    "test_cli_closed_streams.py": ("test_what_ends_at_once", "test_a_password", "test_the_built_in_application"),
    "test_cli_passwd.py": ("test_edits_at_the_same_time_wait_for_each_other",),
    "faults/test_clients.py": ("",),
    "mailserver/test_documents.py": ("",),
    "mailserver/test_frameworks.py": ("",),
    # A program of its own beside the library; what is left shows that it starts, takes mail and answers.
    "inbox/test_clients.py": ("",),
    "inbox/test_embedding.py": ("",),
    "inbox/test_fuzz.py": ("",),
    "inbox/test_reading.py": ("",),
    "inbox/test_safety.py": ("",),
    "inbox/test_store.py": ("",),
    "relay/test_bodies.py": ("",),
    # What the sources and the pages say, read and not run.
    "test_architecture.py": ("",),
    "test_docs_architecture.py": ("",),
}


def is_exhaustive(file: str, name: str) -> bool:
    """Whether a test is one of them.

    Args:
        file: Its file, as a path below ``tests``.
        name: The name of its function.
    """
    return name.startswith(EXHAUSTIVE.get(file, ()))
