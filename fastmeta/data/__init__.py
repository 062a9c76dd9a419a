"""Episodes and the seeded samplers that make them."""

from fastmeta.data.episode import DescribedEpisode, Episode
from fastmeta.data.omniglot import Omniglot
from fastmeta.data.prefetch import Prefetch
from fastmeta.data.sampler import EpisodeSampler, Sampler
from fastmeta.data.semi_supervised import SemiSupervised
from fastmeta.data.shuffled import Shuffled
from fastmeta.data.sinusoid import Sinusoid
from fastmeta.data.vinyals import vinyals

__all__ = ["DescribedEpisode", "Episode", "EpisodeSampler", "Omniglot", "Prefetch", "Sampler", "SemiSupervised", "Shuffled", "Sinusoid", "vinyals"]
