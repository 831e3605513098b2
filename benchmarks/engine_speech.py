"""Do questions find what is said? Text queries against the transcription rows of recordings.

    python benchmarks/engine_speech.py [--engine models] [--texts core-sounds-en.txt.gz [--told]] MEDIA [MEDIA ...]

MEDIA are recordings, or folders of them; docs/engines.md tells where to get those that speech_queries.tsv asks about.
Paraphrases say in other words what one recording says. Key words, asked where the texts are known, are the three
rarest of each longer text. The rank of a query is that of the best segment of a recording that answers it, among the
segments of all recordings, most of which no paraphrase is about.

The engine has to hear the words itself. With --told, the known words of each recording lie beside it as subtitles, and
recordings without known words are left out: what is then missed is the text embedding's fault alone.
"""

from __future__ import annotations

import argparse
import gzip
import re
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import av
import numpy as np

from embed_pipeline.emulator.engine import Dynamic, EmbedRequest, MediaFailure, embed, embed_query, load_engine

ENDINGS = {".wav", ".mp3", ".flac", ".ogg", ".m4a", ".mp4", ".webm", ".mkv"}
REQUEST = EmbedRequest("audio", ("transcription",), ("clip",), segmentation=Dynamic(4.0))


@dataclass(frozen=True)
class Question:
    """What is asked, and which recordings, or which seconds of them, answer it."""

    text: str
    patterns: tuple[str, ...]
    start: float = 0.0
    end: float = float("inf")

    def answered_by(self, name: str, start: float, end: float) -> bool:
        return self.is_about(name) and min(end, self.end) > max(start, self.start)

    def is_about(self, name: str) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in self.patterns)


def read_questions(path: Path) -> list[Question]:
    questions = []
    for line in path.read_text("utf-8").splitlines():
        if line.strip() and not line.startswith("#"):
            target, text = line.split("\t")
            names, _, passage = target.partition("@")
            start, _, end = passage.partition("-")
            span = (float(start), float(end)) if passage else (0.0, float("inf"))
            questions.append(Question(text, tuple(names.split()), *span))
    return questions


def read_texts(path: Path) -> dict[str, str]:
    """The words by recording, from lines of `name: words`; descriptions of sounds are no words."""
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    pairs = (line.partition(":") for line in content.decode("utf-8").splitlines() if not line.startswith(";"))
    return {
        name.strip(): words.strip(" .") for name, _, words in pairs if words.strip() and words.strip()[0] not in "[(<"
    }


def key_words(texts: dict[str, str]) -> list[Question]:
    """The three rarest words of each text of eight words or more; whichever texts hold all three answer."""
    held = {name: set(re.findall(r"[a-z]{4,}", words.lower())) for name, words in texts.items()}
    counts = Counter(word for words in held.values() for word in words)
    chosen = []
    for name, words in held.items():
        if len(texts[name].split()) >= 8 and len(words) >= 3:
            rarest = sorted(words, key=lambda word: (counts[word], word))[:3]
            patterns = tuple(other for other, spoken in held.items() if spoken.issuperset(rarest))
            chosen.append(Question(" ".join(rarest), patterns))
    return chosen


def length_of(path: Path) -> float:
    with av.open(path) as media:
        return (media.duration or 0) / 1_000_000


def recordings(media: list[Path], least_sec: float) -> Iterator[tuple[str, Path]]:
    for place in media:
        found = sorted(place.rglob("*")) if place.is_dir() else [place]
        for path in found:
            if path.suffix.lower() in ENDINGS and length_of(path) >= least_sec:
                yield str(path.relative_to(place if place.is_dir() else place.parent).with_suffix("")), path


def with_subtitles(path: Path, words: str, folder: Path) -> Path:
    """A link to the recording with its words beside it, each sentence given time by its length."""
    link = folder / f"{len(list(folder.iterdir()))}{path.suffix}"
    link.symlink_to(path.resolve())
    sentences = [part for part in re.split(r"(?<=[.!?])\s+", words) if part]
    edges = np.cumsum([0, *[len(part) for part in sentences]]) / sum(map(len, sentences)) * length_of(path)
    stamps = [f"{int(edge // 3600):02}:{int(edge // 60 % 60):02}:{edge % 60:06.3f}".replace(".", ",") for edge in edges]
    blocks = [f"{stamps[n]} --> {stamps[n + 1]}\n{sentence}\n" for n, sentence in enumerate(sentences)]
    link.with_suffix(".srt").write_text("\n".join(blocks), "utf-8")
    return link


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("media", nargs="+", type=Path)
    parser.add_argument("--engine", default="models")
    parser.add_argument("--texts", type=Path)
    parser.add_argument("--told", action="store_true", help="lay the texts beside the recordings as subtitles")
    parser.add_argument("--least", type=float, default=1.0, help="pass over recordings shorter than this, in seconds")
    parser.add_argument("--queries", type=Path, default=Path(__file__).with_name("speech_queries.tsv"))
    parser.add_argument("--misses", action="store_true", help="print what was found instead of the right answer")
    arguments = parser.parse_args()
    texts = read_texts(arguments.texts) if arguments.texts else {}
    load_engine(arguments.engine)
    names: list[str] = []
    spans: list[tuple[float, float]] = []
    vectors: list[np.ndarray] = []
    made: list[str] = []
    silent, seconds, began = 0, 0.0, time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        for name, path in recordings(arguments.media, arguments.least):
            if arguments.told and name not in texts:
                continue
            told = with_subtitles(path, texts[name], Path(folder)) if arguments.told else path
            try:
                result = embed(told, REQUEST, engine=arguments.engine)
            except MediaFailure as failure:
                print(f"{name}: {failure.message}")
                continue
            made.append(name)
            silent, seconds = silent + (not len(result.vectors)), seconds + result.duration_sec
            names += [name] * len(result.vectors)
            spans += zip(result.start_sec.tolist(), result.end_sec.tolist(), strict=True)
            vectors += list(result.vectors)
    took = time.perf_counter() - began
    print(f"{arguments.engine}, {'told' if arguments.told else 'heard'}: {len(vectors)} segments, made in {took:.0f} s")
    print(f"{len(made)} recordings of {seconds:.0f} s in all, {silent} of them without words")
    if not vectors:
        return
    asked = {"paraphrases": read_questions(arguments.queries), "key words": key_words(texts)}
    for kind, questions in asked.items():
        ranks = []
        for question in questions:
            right = [question.answered_by(name, *span) for name, span in zip(names, spans, strict=True)]
            if not any(map(question.is_about, made)):
                continue
            scores = np.stack(vectors) @ embed_query(question.text, engine=arguments.engine)
            best = scores[right].max() if any(right) else -np.inf
            ranks.append(int((scores > best).sum()) + 1)
            if arguments.misses and ranks[-1] > 1:
                print(f"rank {ranks[-1]}: {question.text!r} found {names[int(scores.argmax())]}")
        for depth in (1, 5, 10) if ranks else ():
            found = sum(rank <= depth for rank in ranks)
            print(f"{kind}, R@{depth}: {found} of {len(ranks)} ({found / len(ranks):.2f})")


if __name__ == "__main__":
    main()
