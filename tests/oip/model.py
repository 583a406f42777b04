"""What Triton's Python backend runs: the exported graph by onnxruntime, with the faults that a test asks for.

Triton of PyPI brings no ONNX backend. It reads the exported config.pbtxt all the same and makes the batches; only who
runs the graph differs. A file `fault` beside this one says what is to be wrong.
"""

import time
from pathlib import Path

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb  # type: ignore[import-not-found]


class TritonPythonModel:
    def initialize(self, args):  # type: ignore[no-untyped-def]
        self.folder = Path(args["model_repository"]) / args["model_version"]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(str(self.folder / "model.onnx"), options)
        self.names = [one.name for one in self.session.get_outputs()]

    def execute(self, requests):  # type: ignore[no-untyped-def]
        asked = [pb.get_input_tensor_by_name(one, "film").as_numpy() for one in requests]
        with (self.folder / "batches").open("a") as log:
            log.write(f"{len(requests)} {sum(map(len, asked))}\n")
        found = dict(zip(self.names, self.session.run(self.names, {"film": np.concatenate(asked)}), strict=True))
        fault = self.folder / "fault"
        said = fault.read_text() if fault.exists() else ""
        until = time.monotonic() + 60
        while said == "slow" and time.monotonic() < until and fault.read_text() == "slow":
            time.sleep(0.02)
        if said == "nan":
            found["logits"][...] = np.nan
        if said == "nan for bright films":
            found["logits"][np.concatenate(asked).mean((1, 2)) > 250] = np.nan
        if said == "digest":
            found["digest"][...] ^= 1
        answers, at = [], 0
        for one in asked:
            rows = {name: value[at : at + len(one)] for name, value in found.items()}
            if said == "shape":
                rows["logits"] = rows["logits"][:, 1:]
            answers.append(pb.InferenceResponse([pb.Tensor(name, value) for name, value in rows.items()]))
            at += len(one)
        return answers
