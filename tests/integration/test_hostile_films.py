"""Films that took a decode child down in `make fuzz`, made again by their numbers: each costs one child and no more."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cxrnode.dicom.decoder import Decoder, DecoderDied
from cxrnode.dicom.part10 import dataset_digest
from cxrnode.errors import UnreadableImage
from cxrnode.phantom.dicom import write_phantoms
from tests.fuzz.run import bases, film_case

#: (seed, number) of `tests.fuzz`: what was found.
FOUND = {
    "a damaged JPEG at which its codec gives up with SIGABRT": (1, 69),
    "a damaged JPEG at which its codec ends with SIGSEGV": (3, 264),
    "a second damaged JPEG, and SIGABRT": (3, 589),
    "a third damaged JPEG, and SIGABRT": (3, 599),
    "a fourth damaged JPEG, and SIGABRT": (3, 654),
    "a fifth damaged JPEG": (3, 979),
}


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    made = Decoder(timeout=20.0, memory=2 << 30)
    yield made
    made.close()


@pytest.mark.parametrize("case", FOUND.values(), ids=FOUND.keys())
def test_a_film_that_took_its_decoder_down_costs_one_child_and_the_next_film_is_read(
    decoder: Decoder, tmp_path: Path, case: tuple[int, int]
) -> None:
    path = tmp_path / "found.dcm"
    path.write_bytes(film_case(bases(), *case))
    # A codec of another version may say that it cannot read it; what it may not do is hang, or take us along.
    with pytest.raises((DecoderDied, UnreadableImage)) as said:
        decoder.decode(path, dataset_digest=dataset_digest(path))
    assert str(said.value)
    (good,) = write_phantoms(tmp_path, [1], rows=560, cols=512)
    assert decoder.decode(good, dataset_digest=dataset_digest(good)).display.shape == (560, 512)
