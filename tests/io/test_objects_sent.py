"""Test what other machines upload of a save, before its publisher names it or gives it up."""

import hashlib
import json

from data_pipeline.io.objects import mirror, snapshots
from data_pipeline.io.objects.lease import NAME as LEASE
from data_pipeline.io.objects.places import new_version
from data_pipeline.io.objects.store import Store


def test_what_was_sent_stays_until_it_is_published_or_of_no_use(bucket, tmp_path):
    store, version = Store(f"{bucket}/sent"), new_version()
    good, bad = f"{version}/1", f"{version}/2"
    (tmp_path / "part").write_bytes(b"arrays")
    digest = hashlib.sha256(b"arrays").hexdigest()

    def there() -> set[str]:
        return {*store.sizes("")} - {LEASE, snapshots.NAME}

    with mirror.holding(store.address) as one:
        for place in (good, bad):
            one.sent.begin(place)
            store.upload(tmp_path / "part", f"{place}/part")
        (one.work / "log").write_text("1")
        one.publish()  # which removes what nobody names
        assert {f"{good}/part", f"{bad}/part"} < there()

        one.sent.add(good, {"part": [6, digest, f"{good}/part"]})
        step = one.work / "checkpoints" / "4"
        step.mkdir(parents=True)
        (step / "part").write_bytes(b"arrays")
        (step / snapshots.MANIFEST).write_text(json.dumps({"files": {"part": [6, digest]}}))
        one.sent.end(good)
        one.sent.end(bad)
        one.publish()
        (one.work / "log").write_text("22")
        one.publish()
        files = snapshots.read_tree(store)[0]
        assert files["checkpoints/4/part"] == [6, digest, f"{good}/part"]
        assert there() == {place for *_, place in files.values()}
        assert one.sent.places() == ()
