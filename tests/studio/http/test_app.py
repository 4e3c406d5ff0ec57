"""The HTTP of the studio: pictures apart, within limits and on the disk; tiles, commands, files, headers."""

import io
import json
import os
import re
import secrets
import time
import zipfile

import numpy as np
import pytest
from fastapi.testclient import TestClient

from llavakit.core.errors import DataError
from llavakit.studio.engines import Engine, Watch
from llavakit.studio.http.app import page_files, policy
from tests.studio.http.served import BYTES, pixels_of, png, studio_app

PHOTO = np.zeros((300, 400, 3), np.uint8)
PHOTO[:] = (90, 140, 200)
PHOTO[100:160, 150:230] = (220, 40, 30)
DRAWN = {"do": "paint", "path": [[150, 130], [230, 130]], "width": 60}


@pytest.fixture
def client(tmp_path):
    app, rooms = studio_app(tmp_path / "pictures", max_upload_bytes=200_000)
    with TestClient(app) as opened:
        opened.rooms = rooms
        yield opened


def upload(client, data: bytes | None = None, title: str = "sky.png") -> str:
    answer = client.post("/api/pictures", params={"title": title}, content=data or png(PHOTO), headers=BYTES)
    assert answer.status_code == 201, answer.text
    return answer.json()["name"]


def do(
    client,
    name: str,
    command: dict,
    *,
    rev: int | None = None,
    id: str = "",
    gesture: str = "",
    status: int = 200,
):
    base = client.get(f"/api/{name}/rev").json()["rev"] if rev is None else rev
    asked = {"id": id or secrets.token_hex(8), "base_rev": base, "gesture": gesture, "command": command}
    answer = client.post(f"/api/{name}/commands", json=asked)
    assert answer.status_code == status, answer.text
    return answer.json()


def test_a_picture_is_opened_edited_undone_and_looked_at(client):
    name = upload(client)
    state = client.get(f"/api/{name}").json()
    assert state["size"] == [400, 300] and state["title"] == "sky.png" and not state["can_undo"]
    tile = pixels_of(client.get(f"/api/{name}/tile/{state['rev']}/0/0/0.webp").content)
    assert tile.size == (256, 256) and np.abs(np.asarray(tile, int)[130, 190] - (220, 40, 30)).max() < 16
    selected = do(client, name, DRAWN)["state"]
    mask = np.asarray(pixels_of(client.get(f"/api/{name}/mask/{selected['rev']}/0/0/0.png").content))
    assert mask[130, 190].tolist() == [255, 255] and mask[20, 20, 1] == 0
    removed = do(client, name, {"do": "remove", "fill": "preview"})
    left, top, right, bottom = removed["damage"]
    assert left <= 150 and top <= 100 and right >= 230 and bottom >= 160
    filled = pixels_of(client.get(f"/api/{name}/tile/{removed['rev']}/0/0/0.webp").content)
    assert np.abs(np.asarray(filled, int)[130, 190] - (90, 140, 200)).max() < 16
    back = do(client, name, {"do": "undo"})["state"]
    assert back["selection"]["box"] == selected["selection"]["box"] and back["can_redo"]
    numbers = [each["layers"][0]["raster"] for each in (selected, removed["state"], back)]
    assert numbers[0] == numbers[2] != numbers[1]  # equal numbers: no tile is fetched again


def test_tiles_are_cached_for_ever_and_all_else_is_not(client):
    name = upload(client)
    rev = client.get(f"/api/{name}").json()["rev"]
    for path in (f"tile/{rev}/0/1/1.webp", f"tile/{rev}/1/0/0.webp?layer=0", f"thumbnail/{rev}.webp"):
        assert "immutable" in client.get(f"/api/{name}/{path}").headers["cache-control"]
    assert client.get(f"/api/{name}").headers["cache-control"] == "no-store"
    assert client.get("/page.js").headers["cache-control"] == "no-cache"
    assert client.get(f"/api/{name}/tile/{rev + 9}/0/0/0.webp").status_code == 410
    assert client.get(f"/api/{name}/tile/{rev}/99/0/0.webp").status_code == 404
    assert client.get(f"/api/{name}/tile/{rev}/0/0/0.webp?layer=no").status_code == 404
    assert client.get(f"/api/{name}/mask/{rev}/0/0/0.png").status_code == 410
    do(client, name, DRAWN)
    for far in ("0/2/0", "0/0/2", "1/1/0", f"0/{10**30}/0", f"0/0/{10**9}"):
        for path in (f"tile/{rev}/{far}.webp", f"tile/{rev}/{far}.webp?layer=0", f"mask/{rev + 1}/{far}.png"):
            assert client.get(f"/api/{name}/{path}").status_code == 404, path
    assert client.get(f"/api/{name}/tile/{rev}/0/0/0.webp?layer={10**30}").status_code == 422


def test_who_saw_an_older_revision_is_told_and_the_same_id_does_nothing_twice(client):
    name = upload(client)
    rev = client.get(f"/api/{name}").json()["rev"]
    first = do(client, name, DRAWN, rev=rev, id="the-first-one")
    conflict = do(client, name, {"do": "invert"}, rev=rev, status=409)
    assert conflict["rev"] == conflict["state"]["rev"] == first["rev"]
    again = do(client, name, DRAWN, rev=rev, id="the-first-one")
    assert again["rev"] == first["rev"] and client.get(f"/api/{name}/rev").json()["rev"] == first["rev"]


def test_pictures_of_others_cannot_be_found(client, tmp_path):
    mine, other = upload(client), upload(client)
    assert mine != other and len(mine) == 22
    do(client, mine, DRAWN)
    assert client.get(f"/api/{other}").json()["selection"] is None
    (tmp_path / "secret").mkdir()
    for name in ("a" * 22, "%2e%2e", "..%2fsecret", mine[:-1], f"{mine}x", f"{mine}%00", "pictures"):
        assert client.get(f"/api/{name}").status_code == 404
        assert client.get(f"/api/{name}/rev").status_code == 404
    (tmp_path / "pictures" / ("b" * 22)).symlink_to(tmp_path / "secret")
    assert client.get(f"/api/{'b' * 22}").status_code == 404
    assert not any(mine in path or other in path for path in (route.path for route in client.app.routes))


def test_what_is_no_picture_or_too_large_leaves_nothing_behind(client, tmp_path):
    for data, status in ((b"no picture", 422), (os.urandom(200_001), 413), (b"", 422)):
        answer = client.post("/api/pictures", content=data, headers=BYTES)
        assert answer.status_code == status and answer.json()["error"]
    assert client.post("/api/pictures", content=png(PHOTO)).status_code == 415  # what a form could send
    assert list((tmp_path / "pictures").iterdir()) == []


def test_a_server_that_is_full_says_so(tmp_path):
    app, _ = studio_app(tmp_path, max_pictures=2)
    with TestClient(app) as client:
        names = [upload(client), upload(client)]
        assert (
            "holds 2 pictures"
            in client.post("/api/pictures", content=png(PHOTO), headers=BYTES).json()["error"]
        )
        assert client.delete(f"/api/{names[0]}").status_code == 204
        assert client.get(f"/api/{names[0]}").status_code == 404 and not (tmp_path / names[0]).exists()
        upload(client)


def test_what_nobody_touches_is_deleted_and_only_that(tmp_path):
    app, _ = studio_app(tmp_path, keep_hours=1)
    with TestClient(app) as client:
        old, new = upload(client), upload(client)
    (tmp_path / "notes").mkdir()
    for file in (*(tmp_path / old).iterdir(), tmp_path / old):
        os.utime(file, (time.time() - 7200,) * 2)
    _, again = studio_app(tmp_path, keep_hours=1)
    assert again.get(old) is None and again.get(new) is not None and (tmp_path / "notes").is_dir()
    again.close()


def test_a_picture_is_there_again_after_a_restart(tmp_path):
    app, _ = studio_app(tmp_path)
    with TestClient(app) as client:
        name = upload(client, title="a/b\x1b[31m.png")
        before = do(client, name, DRAWN)["state"]
    app, _ = studio_app(tmp_path)
    with TestClient(app) as client:
        after = client.get(f"/api/{name}").json()
    strip = [{**state, "layers": [], "preparing": ""} for state in (before, after)]
    assert strip[0] == strip[1] and after["title"] == "a/b[31m.png"
    assert (
        before["layers"][0]["raster"] != after["layers"][0]["raster"]
    )  # a page trusts no number of another run


def test_pictures_nobody_works_on_are_closed_and_opened_again(tmp_path):
    now = [1000.0]
    _, rooms = studio_app(tmp_path, max_open=1)
    rooms._clock = lambda: now[0]
    first = rooms.create(png(PHOTO), "one")
    first.session.apply(DRAWN)
    second = rooms.create(png(PHOTO), "two")
    assert rooms.get(first.name) is first  # somebody is at work
    now[0] += 100
    rooms.get(second.name)
    rooms.create(png(PHOTO), "three")
    again = rooms.get(first.name)
    assert again is not first and again.session.scene.selection is not None
    rooms.close()


@pytest.mark.parametrize(
    "body",
    [
        b"", b"[]", b"{", b'{"id": "12345678", "base_rev": -1, "command": {}}', b"[" * 100_000,
        b'{"id": "12345678", "base_rev": 0, "command": {"do": "fly"}}',
        b'{"id": "1", "base_rev": 0, "command": {}}',
        b'{"id": "12345678", "base_rev": 0, "command": {"do": "remove"}}',
        b'{"id": "12345678", "base_rev": 0, "command": {"do": "grow", "pixels": 1e99}}',
    ],
)  # fmt: skip
def test_commands_that_make_no_sense_are_one_line(client, body):
    name = upload(client)
    rev = client.get(f"/api/{name}").json()["rev"]
    body = body.replace(b'"base_rev": 0', b'"base_rev": %d' % rev)
    answer = client.post(f"/api/{name}/commands", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422 and "\n" not in answer.json()["error"]
    assert client.get(f"/api/{name}/rev").json()["rev"] == rev
    plain = client.post(f"/api/{name}/commands", content=body, headers={"Content-Type": "text/plain"})
    assert plain.status_code == 415


def test_the_page_may_load_its_own_files_only(client):
    files = page_files()
    index = files["/"][1].decode()
    answer = client.get("/")
    assert answer.text == index and answer.headers["content-security-policy"] == policy(index.encode())
    rules = dict(rule.strip().split(" ", 1) for rule in policy(index.encode()).split(";"))
    assert rules["default-src"] == "'none'" and "unsafe" not in str(rules) and "http" not in str(rules)
    for kind, content in files.values():
        text = content.decode()
        if kind != "text/javascript" or "Konva JavaScript Framework" not in text:
            assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|innerHTML|\beval\(|style=\"", text), (
                kind
            )
    for path in re.findall(r'(?:href|src)="([\w./]+)"', index):
        assert f"/{path.removeprefix('./')}" in files, path
    assert {"/vendor/checksums.txt", "/vendor/konva.LICENSE", "/package.json"}.isdisjoint(files)
    for path in ("/index.html", "/vendor/..%2fpage.js", "/..%2fapp.py", "/vendor"):
        assert client.get(path).status_code == 404


def test_others_may_frame_the_page_only_where_somebody_said_so(tmp_path):
    for framed_by, said in (((), "'none'"), (("https://huggingface.co",), "https://huggingface.co")):
        with TestClient(studio_app(tmp_path, framed_by=framed_by)[0]) as client:
            rules = client.get("/").headers["content-security-policy"]
            assert rules.endswith(f"; frame-ancestors {said}")


def test_every_module_the_page_imports_is_there():
    files = page_files()
    mapped = json.loads(re.search(r'importmap">(.*?)</script>', files["/"][1].decode())[1])["imports"]
    assert all(f"/{path.removeprefix('./')}" in files for path in mapped.values())
    for path, (kind, content) in files.items():
        if kind == "text/javascript":
            for module in re.findall(r'^import .*?"(.+?)";$', content.decode(), re.MULTILINE):
                assert module in mapped or f"/{module.removeprefix('./')}" in files, (
                    f"{path} imports {module}"
                )


def test_every_kind_of_file_is_given_back_and_read_again(client):
    name = upload(client)
    do(client, name, DRAWN)
    do(client, name, {"do": "keep_object", "label": "box"})
    layer = do(client, name, {"do": "lift", "fill": "preview"})["state"]["layers"][-1]["id"]
    do(client, name, {"do": "move", "dx": 100, "dy": 50, "layer": layer})
    kinds = [each["kind"] for each in client.get("/api/about").json()["exports"]]
    files = {kind: client.get(f"/api/{name}/export/{kind}") for kind in kinds}
    assert all(
        each.status_code == 200 and "sky." in each.headers["content-disposition"] for each in files.values()
    )
    assert {"png", "jpeg", "ora", "coco", "session"} == set(files)
    assert pixels_of(files["png"].content).size == (400, 300)
    [annotation] = json.loads(files["coco"].content)["annotations"]
    assert annotation["segmentation"]["size"] == [300, 400]
    for kind in ("ora", "session"):
        again = upload(client, files[kind].content)
        state = client.get(f"/api/{again}").json()
        assert [layer["kind"] for layer in state["layers"]] == ["photo", "cut"]
        assert client.get(f"/api/{again}/export/png").content == files["png"].content
    assert state["can_undo"] and state["objects"][0]["label"] == "box"
    assert client.get(f"/api/{name}/export/exe").status_code == 404


class Tint:
    """An engine that edits: the seed is the colour."""

    def edit(self, rgb: np.ndarray, prompt: str, seed: int, watch: Watch) -> np.ndarray:
        return np.full_like(rgb, 40 * (seed + 1))


def add_tint(rooms) -> None:
    rooms.bench.table["tint"] = Engine("edit", "One colour", Tint)
    rooms.bench.chosen["edit"] = "tint"


def test_variants_are_seen_side_by_side_and_chosen(client):
    add_tint(client.rooms)
    assert any(
        each["name"] == "tint" and each["chosen"] for each in client.get("/api/about").json()["engines"]
    )
    name = upload(client)
    state = do(client, name, {"do": "edit", "prompt": "one colour", "count": 3})["state"]
    shown = [client.get(f"/api/{name}/variant/{state['rev']}/{number}.webp") for number in range(4)]
    assert [each.status_code for each in shown] == [200, 200, 200, 410]
    means = [np.asarray(pixels_of(each.content).convert("RGB")).mean() for each in shown[:3]]
    assert means[0] < means[1] < means[2]
    do(client, name, {"do": "vary", "variant": 2})
    seen = np.asarray(pixels_of(client.get(f"/api/{name}/export/png").content).convert("RGB"))
    assert (seen == 120).all()


def test_sessions_of_strangers_are_not_believed(client, tmp_path):
    good = client.get(f"/api/{upload(client)}/export/session").content
    with zipfile.ZipFile(io.BytesIO(good)) as archive:
        parts = {each: archive.read(each) for each in archive.namelist()}
    lines = parts["journal.jsonl"].splitlines()
    head = json.loads(lines[0])
    bad = [
        {**parts, "../evil": b"x"}, {"journal.jsonl": parts["journal.jsonl"]},
        {**parts, "journal.jsonl": b"{}\n"}, {**parts, "journal.jsonl": b"no json\n"},
        {**parts, "journal.jsonl": json.dumps({**head, "limits": {"steps": -1}}).encode() + b"\n"},
        {**parts, "journal.jsonl": lines[0] + b'\n{"command": {"do": "fly"}}\n'},
        {**parts, "journal.jsonl": lines[0] + b'\n{"id": 3, "command": {"do": "undo"}}\n'},
        {**parts, "picture": parts["picture"][:200]},
    ]  # fmt: skip
    count = len(list((tmp_path / "pictures").iterdir()))
    for files in bad:
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            for each, content in files.items():
                archive.writestr(each, content)
        answer = client.post("/api/pictures", content=packed.getvalue(), headers=BYTES)
        assert answer.status_code == 422 and "\n" not in answer.json()["error"], files
    assert client.post("/api/pictures", content=good[:-30], headers=BYTES).status_code == 422
    assert len(list((tmp_path / "pictures").iterdir())) == count
    assert not (tmp_path / "evil").exists()


def test_a_title_is_text(client):
    name = upload(client, title='<img src=x onerror="1">\n.png')
    assert client.get(f"/api/{name}").json()["title"].startswith("<img")
    answer = client.get(f"/api/{name}/export/png")
    assert answer.status_code == 200 and "\n" not in answer.headers["content-disposition"]


def test_an_upload_that_never_ends_is_ended(tmp_path):
    app, _ = studio_app(tmp_path, max_upload_bytes=1000)
    taken = []

    def endless():
        for _ in range(100):
            taken.append(1)
            yield bytes(100)

    with TestClient(app) as client:
        assert client.post("/api/pictures", content=endless(), headers=BYTES).status_code == 413


def test_bad_pictures_are_no_tracebacks(tmp_path):
    _, rooms = studio_app(tmp_path)
    with pytest.raises(DataError):
        rooms.create(png(PHOTO)[:500], "cut.png")
    rooms.close()
