"""What KServe's own model server serves: the exported graph by onnxruntime. `kserve_model.py PORT NAME MODEL.onnx`."""

import sys

import onnxruntime
from kserve import InferOutput, InferResponse, Model, ModelServer  # type: ignore[import-not-found]
from kserve.utils.numpy_codec import from_np_dtype  # type: ignore[import-not-found]


class Graph(Model):  # type: ignore[misc]
    def __init__(self, name, path):  # type: ignore[no-untyped-def]
        super().__init__(name)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(path, options)
        self.names = [one.name for one in self.session.get_outputs()]
        self.ready = True

    def predict(self, payload, headers=None, response_headers=None):  # type: ignore[no-untyped-def]
        found = self.session.run(self.names, {"film": payload.inputs[0].as_numpy()})
        outputs = []
        for name, value in zip(self.names, found, strict=True):
            one = InferOutput(name, list(value.shape), from_np_dtype(value.dtype))
            one.set_data_from_numpy(value, binary_data=payload.use_binary_outputs)
            outputs.append(one)
        return InferResponse(payload.id or "one", self.name, outputs)


if __name__ == "__main__":
    ModelServer(http_port=int(sys.argv[1]), enable_grpc=False).start([Graph(sys.argv[2], sys.argv[3])])  # type: ignore[no-untyped-call]
