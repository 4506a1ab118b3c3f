"""Text to image in numpy: prompts, noise, schedule, guidance and the denoising loop.

Knows nothing about what runs the components of a model (Triton, ONNX, torch), or who asks for an image.
"""
