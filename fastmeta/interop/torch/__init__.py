"""fastmeta inside PyTorch: modules become traced functions, and fastmeta's losses take part in ``loss.backward()``.

``from_torch`` imports an ``nn.Module``; ``torch_loss`` turns a meta-gradient into a loss of PyTorch's autograd;
``to_torch_state_dict`` gives parameters back.  docs/pytorch.md tells the whole story.
"""

from fastmeta.interop.torch.autograd import to_torch_state_dict, torch_loss
from fastmeta.interop.torch.module import ImportedModule, from_torch

__all__ = ["ImportedModule", "from_torch", "to_torch_state_dict", "torch_loss"]
