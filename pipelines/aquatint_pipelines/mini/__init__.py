"""The mini checkpoint: a small Stable Diffusion 3.5 trained on permissively licensed emoji.

``sources`` fetches the images, ``dataset`` packs them into one file, ``captions`` words them, ``model`` builds the
untrained pipeline, ``vae`` and ``transformer`` train it, ``judge`` scores it and ``ship`` writes the checkpoint.
Nothing here knows about Triton or ONNX.
"""
