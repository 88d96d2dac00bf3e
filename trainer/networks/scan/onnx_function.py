"""The selective scan in ONNX: its own Scan, a loop over L inside the graph, which stays small for any L.

Imported when a network is exported: it needs onnxscript. Stands for `blocked.scan_node`, with its glossary and layouts.
"""

from onnxscript import FLOAT, graph, script
from onnxscript import opset18 as op
from onnxscript.values import Opset


@script(Opset("scribblemamba", 1), default_opset=op)
def selective_scan(x: FLOAT, step: FLOAT, A: FLOAT, B: FLOAT, C: FLOAT) -> tuple[FLOAT, FLOAT]:
    """(L, B, G, D) x2, (G, N, D), (L, B, G, N) x2 -> y (L, B, G, D) and the last state (B, G, N, D)."""
    begin = op.Expand(0.0, op.Concat(op.Shape(B, start=1), op.Shape(A, start=2), axis=0))  # (B, G, N, D)
    fed = op.Unsqueeze(op.Mul(step, x), [3])  # (L, B, G, 1, D)
    steps = op.Unsqueeze(step, [3])
    gates = op.Unsqueeze(B, [4])  # (L, B, G, N, 1)
    readers = op.Unsqueeze(C, [3])  # (L, B, G, 1, N)

    @graph()
    def walk(h, fed_l, step_l, B_l, C_l):
        later = op.Add(op.Mul(op.Exp(op.Mul(step_l, A)), h), op.Mul(fed_l, B_l))
        y_l = op.MatMul(C_l, later)
        return later, y_l

    last, y = op.Scan(begin, fed, steps, gates, readers, body=walk, num_scan_inputs=4)
    return op.Squeeze(y, [3]), last
