"""Who the studio answers, and what it serves: hosts, origins, tokens, paths, sizes, and visitors who misbehave."""

from __future__ import annotations

import json
import os
import socket

import pytest
from studio_helpers import OFFERS, Fake, Visitor, make_run, until
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from dreamlift.studio.guard import is_loopback
from dreamlift.studio.hub import MAX_WAITING
from dreamlift.studio.serve import Place, listen


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("studio") / "outputs"
    make_run(root)
    (root.parent / "secret.glb").write_text("secret")
    (root / "linked").symlink_to(root.parent)
    (root / "a-red-mug-20260101-000000" / "asset_lod1.glb").symlink_to(root.parent / "secret.glb")
    os.mkfifo(root / "a-red-mug-20260101-000000" / "asset.ply")
    (root / "no-run").mkdir()
    return root


@pytest.fixture(scope="module")
def studio(root):
    fake = Fake(root, Place(port=0))
    yield fake
    fake.close()


# Hosts, origins and tokens

# Another port is that of a tunnel, of a container, or of a proxy.
HOSTS = {
    "127.0.0.1:{}": 200, "localhost:{}": 200, "LOCALHOST:{}": 200, "[::1]:{}": 200, "evil.example:{}": 421, "127.0.0.1":
    200, "127.0.0.1:1": 200, "[::1]:9999": 200, "127.0.0.1.evil.example:{}": 421, "localhost.:{}": 421, "10.0.0.1:{}": 421,
    "": 421, "[::1": 421, "127.0.0.1:{}@evil.example": 421, "127.0.0.1:٣": 421, "localhost:": 421, "evil.example:9999": 421,
    "localhost:1234567": 421,
}  # fmt: skip


@pytest.mark.parametrize("host", HOSTS)
def test_only_known_hosts_are_answered(studio, host):
    given = host.format(studio.port).encode("utf-8").decode("latin-1")
    status, _, body = studio.ask("GET", "/", host_=given)
    assert status == HOSTS[host] or (host == "" and status == 400)
    assert (b"<title>" in body) == (status == 200)
    if status == 421 and "evil" in host:
        assert body.decode() == (
            f"no answer to the name {given!r} (any port will do): open an address that the studio has printed, or start it "
            "with --allow-host NAME\n"
        )


def test_a_tunnels_port_is_the_origins_too(studio):
    """As with `ssh -L 9999:127.0.0.1:PORT`: the browser sends the port that it has connected to."""
    for host, origin, expected in (
        ("127.0.0.1:9999", "http://127.0.0.1:9999", 404),
        ("127.0.0.1:9999", f"http://127.0.0.1:{studio.port}", 403),
        (f"127.0.0.1:{studio.port}", "http://127.0.0.1:9999", 403),  # another server of this machine
        ("evil.example:9999", "http://evil.example:9999", 421),
    ):
        assert studio.post("/api/stop", {"number": 99}, host_=host, origin=origin)[0] == expected
    tunnel = socket.create_connection(("127.0.0.1", studio.port))
    connect("ws://localhost:9999/api/live", sock=tunnel, additional_headers={"Origin": "http://localhost:9999"}).close()
    headers = studio.ask("GET", "/", host_="127.0.0.1:9999")[1]
    assert "connect-src 'self' ws://127.0.0.1:9999" in headers["content-security-policy"]


ORIGINS = {
    "http://127.0.0.1:{}": 200, "http://evil.example": 403, "null": 403, "http://127.0.0.1:1": 403, "http://localhost:{}":
    403, "http://127.0.0.1:{}.evil.example": 403, "file://": 403, "": 403,
}  # fmt: skip


@pytest.mark.parametrize("origin", ORIGINS)
def test_foreign_origins_are_refused(studio, origin):
    given = origin.format(studio.port)
    expected = ORIGINS[origin]
    assert studio.post("/api/stop", {"number": 99}, origin=given)[0] == (404 if expected == 200 else 403)
    assert studio.ask("GET", "/api/runs", origin=given)[0] == expected
    if expected == 403:
        with pytest.raises(InvalidStatus) as caught:
            Visitor(studio.port, Origin=given)
        assert caught.value.response.status_code == 403


def test_requests_without_an_origin_change_nothing(studio):
    assert studio.ask("POST", "/api/stop", b"{}", content_type="application/json")[0] == 403
    assert studio.ask("GET", "/api/runs")[0] == 200


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_another_sites_page_can_link_here_and_no_more(studio, site):
    foreign = {"sec_fetch_site": site}
    assert studio.ask("GET", "/runs/a-red-mug-20260101-000000/preview.png", **foreign)[0] == 403
    assert studio.ask("GET", "/", sec_fetch_mode="navigate", sec_fetch_dest="iframe", **foreign)[0] == 403
    assert studio.ask("GET", "/", sec_fetch_mode="navigate", sec_fetch_dest="document", **foreign)[0] == 200


def test_no_token_is_asked_for_on_this_machine(studio):
    assert studio.told == [f"studio: http://127.0.0.1:{studio.port}/"]
    assert all(map(is_loopback, ("127.0.0.1", "localhost", "::1", "127.5.5.5")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "10.0.0.1", "box", "")))


def test_every_answer_forbids_framing_sniffing_and_foreign_code(studio):
    for path in ("/", "/studio.js", "/api/runs", "/runs/a-red-mug-20260101-000000/asset.glb", "/api/runs/none"):
        _, headers, _ = studio.ask("GET", path)
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert "frame-ancestors 'none'" in policy or "sandbox" in policy
    _, headers, body = studio.ask("GET", "/runs/a-red-mug-20260101-000000/view")
    policy = headers["content-security-policy"]
    assert policy.startswith("sandbox allow-scripts; default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    assert b"connect-src" not in policy.encode()
    assert body.count(b"<script") == 2


# Files

BAD_PATHS = (
    "/runs/../secret.glb/asset.glb", "/runs/%2e%2e/asset.glb", "/runs/..%2fsecret/asset.glb", "/runs/linked/secret.glb",
    "/runs/linked/asset.glb", "/runs/{}/..%2f..%2fsecret.glb", "/runs/{}/asset_lod1.glb", "/runs/{}/.lock",
    "/runs/{}/events.jsonl", "/runs/{}/notes.txt", "/runs/{}/checkpoints", "/runs/{}/checkpoints%2fstate.json",
    "/runs/{}/asset.ply", "/runs/{}/asset.glb%00", "/runs/{}/%2fetc%2fpasswd", "/runs/%2fetc/passwd",
    "/runs/no-run/run.json", "/runs/.pictures/asset.png", "/runs//asset.glb", "/runs/{}/asset.glb/", "/runs/C:/asset.glb",
    "/runs/..%5c..%5cx/asset.glb", "/runs/%ff%fe/asset.glb", "/api/runs/..", "/api/runs/%2e%2e", "/api/runs/linked",
    "/api/runs/no-run", "/api/runs/{}%2f..", "/view.html", "/../studio.html", "/static/x", "/studio.html", "/api", "/runs",
    "/runs/{}/view/x", "/docs", "/openapi.json",
)  # fmt: skip


@pytest.mark.parametrize("path", BAD_PATHS)
def test_nothing_else_is_served(studio, path):
    status, _, body = studio.ask("GET", path.format("a-red-mug-20260101-000000"))
    assert status in (400, 404, 405)
    assert b"secret" not in body
    assert b"root:" not in body


def test_a_run_is_listed_described_and_downloaded(studio, root):
    found = json.loads(studio.ask("GET", "/api/runs")[2])["runs"]
    about = {"name": "a-red-mug-20260101-000000", "prompt": "a red mug", "status": "finished", "seed": 3, "preview": True}
    assert found == [{**about, "ticket": ""}]
    run = json.loads(studio.ask("GET", "/api/runs/a-red-mug-20260101-000000")[2])
    assert [file["name"] for file in run["files"]] == ["asset.glb", "preview.png", "config.yaml", "run.json", "metrics.jsonl"]
    assert (run["faces"], run["psnr"], run["view"]) == (998, 33.0, True)
    steps, losses = run["curves"]["steps"], run["curves"]["terms"]["loss"]
    assert 100 < len(steps) <= 400
    assert all(abs(loss - 1 / (step + 1)) < 1e-4 for step, loss in zip(steps, losses, strict=True))
    status, headers, body = studio.ask("GET", "/runs/a-red-mug-20260101-000000/asset.glb")
    assert (status, body) == (200, b"glTF" * 50_000)
    assert headers["content-disposition"] == 'attachment; filename="asset.glb"'


def test_a_prompt_is_text_wherever_it_is_shown(studio, root):
    make_run(root, "hostile", prompt="</title><script>alert(1)</script>\" onload='x' {glb}{script}", photos=[1])
    body = studio.ask("GET", "/runs/hostile/view")[2].decode()
    assert "<script>alert" not in body
    assert body.count("<script") == 2
    for folder in ("hostile",):
        for file in sorted((root / folder).rglob("*"), reverse=True):
            file.rmdir() if file.is_dir() else file.unlink()
        (root / folder).rmdir()
    studio.runs.changed()


@pytest.mark.parametrize("changes", [{"schema": 99}, {"prompt": 3}, {"metrics": [1]}, {"photos": {"a": 1}, "seed": {"x": 1}}])
def test_damaged_runs_break_nothing(studio, root, changes):
    folder = make_run(root, "damaged", **changes)
    studio.runs.changed()
    (folder / "metrics.jsonl").write_bytes(
        b'{"step": 1, "a": NaN}\n{"step": "x"}\nnull\n[1]\n\xff\n{"step": 2, "b": {"c": 1}}\n' + b"[" * 9000
    )
    assert studio.ask("GET", "/api/runs")[0] == 200
    assert studio.ask("GET", "/api/runs/damaged")[0] in (200, 500)
    for file in sorted(folder.rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()
    folder.rmdir()
    studio.runs.changed()


# What visitors send


def test_bodies_are_limited(studio):
    assert (
        studio.ask("POST", "/api/pictures", b"", origin=f"http://127.0.0.1:{studio.port}", content_length=str(1 << 30))[0]
        == 413
    )
    assert studio.post("/api/start", {"prompt": "x" * 20_000})[0] == 413
    with socket.create_connection(("127.0.0.1", studio.port)) as flood:  # no length, and no end
        flood.sendall(f"POST /api/start HTTP/1.1\r\nHost: 127.0.0.1:{studio.port}\r\nOrigin: http://127.0.0.1:{studio.port}\r\n"
                      "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n".encode())  # fmt: skip
        flood.sendall(b"4000\r\n" + b"x" * 0x4000 + b"\r\n" + b"4000\r\n" + b"x" * 0x4000 + b"\r\n")
        assert b" 413 " in flood.recv(4096)


BAD_STARTS = (
    ({"prompt": ""}, 400), ({"prompt": "a\nb"}, 400), ({"prompt": "a", "seed": -1}, 400), ({"prompt": "a", "seed": 1.5}, 400),
    ({"prompt": "a", "seed": True}, 400), ({"prompt": "a", "seed": 1 << 40}, 400), ({"prompt": "a", "preset": "../x"}, 400),
    ({"prompt": "a", "preset": "zero123-toy"}, 400), ([1], 400), ("x", 400), ({"prompt": ["a"], "preset": {"b": 1}}, 400),
)  # fmt: skip


@pytest.mark.parametrize(("body", "expected"), BAD_STARTS)
def test_bad_orders_are_refused_in_one_line(studio, body, expected):
    status, found = studio.post("/api/start", body)
    assert status == expected
    assert "\n" not in found["error"]
    assert not studio.hub.waiting


def test_a_folder_cannot_be_chosen(studio):
    for name in ("out", "resume", "like", "type", "steps"):
        status, found = studio.post("/api/start", {"prompt": "a mug", name: "/tmp/x"})
        assert (status, found["error"]) == (400, f"unknown: {name}; accepted: prompt, preset, seed, picture")
    assert not studio.hub.waiting
    for path in ("/api/more", "/api/resume"):
        for name in ("../outputs", "/etc", "linked", "no-run", "", "a-red-mug-20260101-000000/checkpoints", ".pictures"):
            assert studio.post(path, {"run": name})[0] == 404
    assert not studio.hub.waiting


def test_four_more_have_the_next_seeds_and_the_queue_is_limited(studio):
    for _ in range(MAX_WAITING // 4):
        assert studio.post("/api/more", {"run": "a-red-mug-20260101-000000"})[0] == 200
    assert [each.order["seed"] for each in studio.hub.waiting][:4] == [4, 5, 6, 7]
    assert {each.order["like"] for each in studio.hub.waiting} == {"a-red-mug-20260101-000000"}
    status, found = studio.post("/api/start", {"prompt": "a mug"})
    assert (status, "are waiting already" in found["error"]) == (429, True)
    for each in list(studio.hub.waiting):
        assert studio.post("/api/stop", {"number": each.number})[0] == 200
    assert not studio.hub.waiting


def test_four_more_are_queued_all_or_none(studio):
    for number in range(MAX_WAITING - 2):
        assert studio.post("/api/start", {"prompt": "a mug", "seed": number})[0] == 200
    status, found = studio.post("/api/more", {"run": "a-red-mug-20260101-000000"})
    assert (status, found["error"]) == (429, "4 more runs do not fit: 12 may wait, and 10 do; remove some")
    assert len(studio.hub.waiting) == MAX_WAITING - 2
    studio.hub.waiting.clear()


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "TRACE", "PATCH"])
def test_other_methods_are_refused(studio, method):
    assert studio.ask(method, "/api/runs")[0] == 405


# Visitors


@pytest.fixture
def running(studio):
    """A run that the test plays, without visitors of an earlier test."""
    until(lambda: not studio.hub.visitors)
    assert studio.post("/api/start", {"prompt": "a red mug"})[0] == 200
    studio.hub.take_order()
    studio.hear({"type": "begin", "name": "a-red-mug-20260101-000000", "folder": "x", "total": 9, "index": 0,
                 "prompt": "a red mug", "seed": 0})  # fmt: skip
    studio.sent.clear()
    yield studio
    studio.hear({"type": "end", "status": "finished", "error": ""})
    studio.hub.live = None


def looks(studio):
    return [message for message in studio.sent if message["type"] == "look"]


def test_each_visitor_gets_the_pictures_of_its_own_camera(running):
    first, second = Visitor(running.port), Visitor(running.port)
    assert first.hear("state")[0]["presets"] == OFFERS
    second.hear("state")
    first.look(0.5)
    second.look(None)
    asked = until(lambda: looks(running) if len(looks(running)) == 2 else None)
    names = {json.dumps(message["view"]): message["visitor"] for message in asked}
    running.hear({"type": "frame", "visitors": [names["[0.5, 0.2, 3.0, null]"]], "index": 1}, b"for the first")
    running.hear({"type": "frame", "visitors": [names["[null, 0.2, 3.0, null]"]], "index": 1}, b"for the second")
    assert first.hear("frame")[1] == b"for the first"
    assert second.hear("frame")[1] == b"for the second"
    first.close()
    second.close()
    until(lambda: not running.hub.visitors)


def test_one_wish_of_a_visitor_is_with_the_run_at_a_time(running):
    visitor = Visitor(running.port)
    for number in range(10):
        visitor.look(0.1 * number)
    until(lambda: looks(running) and next(iter(running.hub.visitors.values())).next == [0.9, 0.2, 3.0, None])
    assert len(looks(running)) == 1
    running.hear({"type": "frame", "visitors": [looks(running)[0]["visitor"]], "index": 1}, b"x")
    assert len(looks(running)) == 2
    assert looks(running)[1]["view"][0] == 0.9  # the newest
    visitor.close()
    until(lambda: running.sent[-1]["type"] == "leave")


def test_steps_reach_all_visitors_and_curves_one_who_comes_later(running):
    visitor = Visitor(running.port)
    visitor.hear("state")
    for step in range(9):
        running.hear({"type": "step", "index": step, "total": 9, "terms": {"loss": 1.0 / (step + 1)}})
    found = visitor.hear("steps")[0]
    assert (found["total"], found["points"][0]) == (9, [0, {"loss": 1.0}])
    later = Visitor(running.port)
    state = later.hear("state")[0]
    assert state["curves"]["steps"] == list(range(9))
    assert state["run"]["status"] == "running"
    visitor.close()
    later.close()


def test_a_run_that_fails_says_why_and_the_next_one_begins(running):
    visitor = Visitor(running.port)
    visitor.hear("state")
    assert running.post("/api/start", {"prompt": "a blue chair"})[0] == 200
    running.hear({"type": "end", "status": "failed", "error": "the scene is empty"})
    found = visitor.hear("run")[0]["run"]
    assert (found["status"], found["error"]) == ("failed", "the scene is empty")
    assert running.hub.take_order().prompt == "a blue chair"
    visitor.close()


@pytest.mark.parametrize(
    "said", ["{", "[]", "null", '{"type": "look"}', '{"type": "look", "azimuth": "x", "elevation": 0, "distance": 3}',
             '{"type": "look", "azimuth": 0, "elevation": NaN, "distance": 3}', "x" * 3000, "[" * 900, '{"type": "pair"}']
)  # fmt: skip
def test_a_visitor_who_talks_nonsense_is_cut_off_and_no_other(running, said):
    good, bad = Visitor(running.port), Visitor(running.port)
    bad.hear("state")
    bad.tell(said)
    with pytest.raises(ConnectionClosed):
        bad.hear("nothing", 10)
    good.look(0.4)
    until(lambda: [message for message in looks(running) if message["view"][0] == 0.4])
    good.close()


def test_a_visitor_who_floods_is_cut_off(running):
    bad = Visitor(running.port)

    def flood():
        for number in range(5000):
            bad.look(0.001 * number)
        bad.hear("nothing", 10)

    with pytest.raises(ConnectionClosed):
        flood()
    assert len(looks(running)) <= 2


def test_a_visitor_who_reads_nothing_does_not_fill_the_memory(running):
    """The newest picture is kept for it, and the state in place of a long list of reports."""
    visitor = Visitor(running.port)
    visitor.hear("state")
    (kept,) = running.hub.visitors.values()
    kept.something.set = lambda: None  # nothing wakes its sender any more, once it has sent what it was woken for
    until(lambda: any(not each.done() for each in kept.something._waiters))
    for number in range(500):
        running.hear({"type": "note", "text": f"note {number}"})
        running.hear({"type": "frame", "visitors": [kept.name], "index": number}, b"x" * 1000)
    assert len(kept.reports) <= 65
    assert len(kept.pictures) <= 1
    assert kept.reports[0]["type"] in ("run", "state")
    visitor.close()


def test_a_port_that_is_taken_is_said_with_the_fix(studio):
    with pytest.raises(ValueError, match=r"another program \(or studio\) uses this port: give --port another one, or 0"):
        listen(Place(port=studio.port)).listen()
    with pytest.raises(ValueError, match="--port is 70000; accepted: 1 to 65535"):
        listen(Place(port=70000))
    with pytest.raises(ValueError, match="--host 'no such host' is not an address"):
        listen(Place("no such host", 0))
