"""Attribution methods, one file per family. A method is `f(forward, pairs, *, ...) -> Tensor [P, h, w]`: raw, signed."""
