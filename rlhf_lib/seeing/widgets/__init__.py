"""Interactive figures: one anywidget per demo, the same in a notebook and in the static book.

The browser code computes; Python holds the same state and the reference formula, as `demo.result`.
A demo `name` is two files, `name.py` and `name.js`; helpers and styles that demos share stand once,
in `common.js` and `common.css`.
"""

from .annotator import Annotator
from .bradley_terry_explorer import BradleyTerryExplorer
from .clip_explorer import ClipExplorer
from .dpo_explorer import DPOExplorer
from .estimator_explorer import EstimatorExplorer
from .gae_explorer import GAEExplorer
from .group_explorer import GroupExplorer
from .letters_training import LettersTraining
from .overoptimization_explorer import OveroptimizationExplorer
from .policy_gradient_bandit import PolicyGradientBandit
from .prompt_lab import PromptLab
from .reasoning_replay import ReasoningReplay
from .reward_fit import RewardFit
from .reward_microscope import RewardMicroscope
from .sample_explorer import SampleExplorer
from .staleness_explorer import StalenessExplorer
from .sums_training import SumsTraining
from .tilt_explorer import TiltExplorer
from .training_dashboard import TrainingDashboard
from .training_replay import TrainingReplay

__all__ = [
    "Annotator",
    "BradleyTerryExplorer",
    "ClipExplorer",
    "DPOExplorer",
    "EstimatorExplorer",
    "GAEExplorer",
    "GroupExplorer",
    "LettersTraining",
    "OveroptimizationExplorer",
    "PolicyGradientBandit",
    "PromptLab",
    "ReasoningReplay",
    "RewardFit",
    "RewardMicroscope",
    "SampleExplorer",
    "StalenessExplorer",
    "SumsTraining",
    "TiltExplorer",
    "TrainingDashboard",
    "TrainingReplay",
]
