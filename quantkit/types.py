"""Array types by element type."""

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating]
Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.integer]
Int64Array = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
