"""Build files of both dialects, as text to change."""

from quantkit.vendors.vacc.document import Document

COMPILE = """\
# ours
name: small_int8

frontend:
  checkpoint: small.onnx   # the model
  type: onnx
  dtype: fp32
  shape:
    input.1: [1, 3, 224, 224]

backend:
  type: tvm_vacc
  dtype: int8
  quantize:
    calibrate_mode: percentile
    quantize_per_channel: true
    # our own key
    house_option: {a: 1}

graph:
  extra_ops:
    type: softmax

dataset:
  type: tvm
  path: photos
  sampler:
    suffix: JPEG
    get_data_num: 1000
  process_ops:
  - type: DecodeImage
  - type: Resize
    size: [256, 256]
  - type: CenterCrop
    crop_size:
    - 224
    - 224
  - type: Normalize
    mean: [0.485, 0.456, 0.406]
    std: [0.229, 0.224, 0.225]
  - type: ToTensor

workspace:
  path: ./deploy_weights/
"""

BUILD = """\
model:
  name: small
  inputs:
    input: [1, 3, 224, 224]
  checkpoint: small.onnx

engine:
  type: vacc
  common:
    do_quantization: true
  add_extra_ops_to_graph:
    type: null
  calibration:
    quant_mode: percentile
    per_channel: true

dataset:
  path: photos
  sampler:
    suffix: JPEG
    get_data_num: 1000
  transform_ops:
    - type: DecodeImage
    - type: Resize
      size: [256, 256]
    - type: CenterCrop
      crop_size: [224, 224]
    - type: Normalize
      div255: False
      mean: [123.675, 116.28, 103.53]
      std: [58.395, 57.12, 57.375]
    - type: ToTensor

workspace:
  work_dir: ./deploy_weights/
  enable_ir: false
  save_log: true
"""

# The later form of the build dialect: detection, segmentation and super-resolution models of 2023.
LATER_BUILD = (
    BUILD.replace("  common:\n    do_quantization: true\n", "  dtype: int8\n  common:\n    data_transport_mode: 1\n")
    .replace("quant_mode", "calibrate_mode")
    .replace("per_channel", "quantize_per_channel")
)
# The usual file of the zoo, for a 224 crop of a 256 resize with ImageNet's mean and std.
USUAL = """\
{
    "OpType": "FUSION_OP_RGB_RESIZE_CVTCOLOR_CROP_NORM_TENSOR",
    "OpConfig": {
        "IimageFormat": "RGB_PLANAR",
        "IimageWidth": 256,
        "IimageHeight": 256,
        "OimageWidth": 224,
        "OimageHeight": 224,
        "CropX": 16,
        "CropY": 16,
        "ResizeWidth": 256,
        "ResizeHeight": 256,
        "IimageWidthPitch": 256,
        "IimageHeightPitch": 256,
        "Mean": [
            0.485107421875,
            0.4560546875,
            0.406005859375
        ],
        "Std": [
            0.22900390625,
            0.2239990234375,
            0.2249755859375
        ],
        "NormaType": "DIV255_MINUSMEAN_DIVSTD",
        "ColorCvtCode": "NO_CHANGE",
        "ResizeType": "BILINEAR_CV"
    }
}"""


def changed(text: str, *changes: tuple[str, str]) -> Document:
    """Parse a text after each ``old`` in it, of which there must be one, has become ``new``."""
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return Document.parse(text, "file.yaml")
