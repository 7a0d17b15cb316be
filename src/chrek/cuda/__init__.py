"""GPU memory: the CUDA driver's checkpoint functions, NVML's facts, and who may use which GPU.

One process alone loads NVIDIA's libraries, `chrek.cuda.helper`; all else here asks it through
`chrek.cuda.client`. The agent itself therefore neither waits for the driver nor ends with it.
"""
