from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embed_pipeline.client.matching import same_url
from embed_pipeline.redaction import redact, without_credentials

BASE = "https://bucket.example/a/b.mp4"
paths = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12)


@given(path=paths, first=st.text("abc123", max_size=6), second=st.text("abc123", max_size=6))
def test_a_signature_never_makes_two_objects_of_one(path, first, second):
    url = f"https://bucket.example/{quote(path)}"
    assert same_url(f"{url}?X-Amz-Signature={first}", f"{url}?X-Amz-Signature={second}&X-Amz-Expires=60")
    assert same_url(url, f"{url}?sig={first}")


@given(first=paths, second=paths)
def test_different_paths_are_different_objects(first, second):
    one, other = (f"https://bucket.example/{quote(path, safe='')}" for path in (first, second))
    assert same_url(one, other) == (first == second)


@pytest.mark.parametrize(
    ("other", "same"),
    [
        ("HTTPS://Bucket.example:443/a/b.mp4#part", True),
        ("https://bucket.example/a%2Fb.mp4", True),
        ("http://bucket.example/a/b.mp4", False),
        ("https://other.example/a/b.mp4", False),
        ("https://bucket.example:8443/a/b.mp4", False),
        ("https://bucket.example/A/b.mp4", False),
        ("b.mp4", False),
    ],
)
def test_urls_are_compared_by_what_they_name(other, same):
    assert same_url(BASE, other) is same


@given(secret=st.text("abcdef0123456789", min_size=8, max_size=20))
def test_no_query_user_or_key_survives_redaction(secret):
    text = f"cannot read https://user:{secret}@h.example/p?sig={secret}, 's3://b/k?x={secret}' with {secret}"
    assert secret not in redact(text, secret)
    assert secret not in redact(text.rpartition(" with ")[0])
    assert without_credentials(f"https://user:{secret}@h.example/p?sig={secret}#{secret}") == "https://h.example/p"
