"""Names, ids and beginnings of ids."""

from __future__ import annotations

import pytest

from tests.support.builders import an_image
from tests.support.command_line import unkai
from tests.support.served_api import ServedApi
from unkai_scheduler.domain.images import Visibility
from unkai_scheduler.store import images
from unkai_wire.ids import encode, uuid7


def _two_alike(cloud: ServedApi) -> list[str]:
    """Insert two images whose ids differ in the last characters only."""
    made = [encode("img", uuid7(1_900_000_000_000, number)) for number in (1, 2)]
    rows = [an_image(id=ident, name=f"i{place}") for place, ident in enumerate(made)]

    def work(conn: object) -> None:
        for row in rows:
            images.insert(conn, row)  # type: ignore[arg-type]

    cloud.lead(work)
    return made


def test_a_name_an_id_and_a_unique_beginning_of_an_id_mean_the_same(cloud: ServedApi) -> None:
    created = cloud.do(cloud.api.create("web"))
    ident = created.instance.id
    for word in ("web", ident, ident[:-1], ident[:-4]):
        outcome = unkai("instance", "show", word, "-o", "value=id")
        assert outcome.out.strip() == ident, word


def test_a_beginning_of_several_ids_is_refused_with_the_candidates(cloud: ServedApi) -> None:
    first, second = _two_alike(cloud)
    outcome = unkai("image", "show", first[:-2])
    assert outcome.code == 2
    assert "AMBIGUOUS" in outcome.err
    assert first in outcome.err
    assert second in outcome.err


def test_a_whole_id_is_never_ambiguous(cloud: ServedApi) -> None:
    first, _ = _two_alike(cloud)
    assert unkai("image", "show", first, "-o", "value=id").out.strip() == first


@pytest.mark.parametrize("kind", ["instance", "image", "flavor", "key", "host", "project"])
def test_what_does_not_exist_is_not_found_and_the_fix_lists_what_does(
    kind: str, cloud: ServedApi
) -> None:
    outcome = unkai(kind, "show", "nothing")
    assert outcome.code == 3
    assert f"'unkai {kind} list'" in outcome.err


def test_the_kinds_prefix_alone_stands_for_nothing(cloud: ServedApi) -> None:
    assert unkai("flavor", "show", "flv-").code == 3


@pytest.mark.parametrize("act", ["show", "delete"])
@pytest.mark.parametrize("kind", ["instance", "image", "flavor", "key", "project"])
def test_an_empty_text_stands_for_nothing_even_where_there_is_one_thing_only(
    kind: str, act: str, cloud: ServedApi
) -> None:
    cloud.do(cloud.api.create("web"))
    for name in unkai("flavor", "list", "-o", "name").out.split()[1:]:
        unkai("flavor", "delete", name)
    before = unkai(kind, "list", "-o", "name").out
    outcome = unkai(kind, act, "")
    assert (outcome.code, outcome.out) == (2, "")
    assert "EMPTY_NAME" in outcome.err
    assert unkai(kind, "list", "-o", "name").out == before


def test_an_empty_name_of_a_host_cordons_none(cloud: ServedApi) -> None:
    assert unkai("host", "cordon", "").code == 2
    assert unkai("host", "show", "h1", "-o", "value=cordoned").out == "false\n"


def test_lists_show_the_project_in_use_and_all_with_a(cloud: ServedApi) -> None:
    unkai("project", "create", "lab")
    project_id = unkai("project", "show", "lab", "-o", "value=id").out.strip()
    cloud.do(cloud.api.create("here"))
    shared = an_image(visibility=Visibility.PUBLIC)
    cloud.lead(lambda conn: images.insert(conn, shared))
    cloud.do(cloud.api.create("there", project_id=project_id, image_id=shared.id))
    assert unkai("instance", "list", "-o", "name").out.split() == ["here"]
    assert unkai("instance", "list", "-p", "lab", "-o", "name").out.split() == ["there"]
    assert unkai("-p", "lab", "ls", "-o", "name").out.split() == ["there"]
    assert unkai("ls", "-A", "-o", "name").out.split() == ["here", "there"]
    assert unkai("instance", "show", "there").code == 3
    assert unkai("-p", "lab", "instance", "show", "there").code == 0


@pytest.mark.parametrize(("alias", "word"), [("ls", "list"), ("get", "show"), ("rm", "delete")])
def test_short_words_stand_for_the_long_ones(alias: str, word: str, cloud: ServedApi) -> None:
    unkai("project", "create", "lab")
    arguments = [] if word == "list" else ["lab"]
    outcome = unkai("project", alias, *arguments)
    assert outcome.code == 0, outcome.err


def test_nothing_is_deleted_when_one_of_the_names_is_wrong(cloud: ServedApi) -> None:
    cloud.do(cloud.api.create("web"))
    assert unkai("instance", "delete", "web", "wbe").code == 3
    assert unkai("instance", "list", "-o", "name").out == "web\n"


def test_one_that_is_refused_does_not_keep_the_others_from_their_act(cloud: ServedApi) -> None:
    for name in ("one", "two", "three"):
        cloud.do(cloud.api.create(name))
    cloud.lead(cloud.leader.settle)
    unkai("instance", "stop", "two")
    outcome = unkai("instance", "stop", "one", "two", "three", "-o", "name")
    assert outcome.code == 4
    assert outcome.out.split() == ["one", "three"]
    assert "instance two is STOPPED" in outcome.err
    assert unkai("instance", "list", "-o", "value=state").out.split() == ["STOPPED"] * 3


def test_each_refusal_is_told_and_what_was_deleted_is_named(cloud: ServedApi) -> None:
    cloud.do(cloud.api.create("web", flavor_id=_id_of("flavor", "nano")))
    cloud.do(cloud.api.create("db", flavor_id=_id_of("flavor", "micro")))
    outcome = unkai("flavor", "delete", "nano", "small", "micro")
    assert outcome.code == 4
    assert "flavor small deleted" in outcome.err
    assert outcome.err.count("FLAVOR_IN_USE") == 2
    assert "small" not in unkai("flavor", "list", "-o", "name").out.split()


def _id_of(kind: str, name: str) -> str:
    return unkai(kind, "show", name, "-o", "value=id").out.strip()


def test_one_thing_named_twice_is_acted_on_once(cloud: ServedApi) -> None:
    ident = cloud.do(cloud.api.create("web")).instance.id
    cloud.lead(cloud.leader.settle)
    outcome = unkai("instance", "stop", "web", ident, "-o", "name")
    assert (outcome.code, outcome.out) == (0, "web\n")
    assert unkai("instance", "delete", "web", "web").code == 0
    assert unkai("project", "create", "lab").code == 0
    assert unkai("project", "delete", "lab", "lab").code == 0


def test_lists_go_on_over_pages_and_stop_at_the_limit(cloud: ServedApi) -> None:
    from tests.support.builders import a_flavor
    from unkai_scheduler.store import flavors

    rows = [a_flavor(name=f"f{number:04}") for number in range(1100)]
    cloud.lead(lambda conn: [flavors.insert(conn, row) for row in rows])
    assert len(unkai("flavor", "list", "-o", "name").out.split()) == 1105
    assert len(unkai("flavor", "list", "-o", "name", "--limit", "1001").out.split()) == 1001


def test_titles_can_be_left_out(cloud: ServedApi) -> None:
    with_titles = unkai("flavor", "list").out.splitlines()
    assert with_titles[0].startswith("NAME")
    assert len(unkai("flavor", "list", "--no-headers").out.splitlines()) == len(with_titles) - 1
