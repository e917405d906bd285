"""Interactive figures: one anywidget per demo, the same in a notebook and in the static book.

The browser code computes; Python holds the same state and the reference formula, as `demo.result`.
A demo `name` is two files, `name.py` and `name.js`; helpers and styles that demos share stand once,
in `common.js` and `common.css`.
"""

from rlhf_lib.widgets.annotator import Annotator
from rlhf_lib.widgets.bradley_terry_explorer import BradleyTerryExplorer
from rlhf_lib.widgets.clip_explorer import ClipExplorer
from rlhf_lib.widgets.estimator_explorer import EstimatorExplorer
from rlhf_lib.widgets.gae_explorer import GAEExplorer
from rlhf_lib.widgets.group_explorer import GroupExplorer
from rlhf_lib.widgets.overoptimization_explorer import OveroptimizationExplorer
from rlhf_lib.widgets.policy_gradient_bandit import PolicyGradientBandit
from rlhf_lib.widgets.reasoning_replay import ReasoningReplay
from rlhf_lib.widgets.reward_microscope import RewardMicroscope
from rlhf_lib.widgets.sample_explorer import SampleExplorer
from rlhf_lib.widgets.tilt_explorer import TiltExplorer
from rlhf_lib.widgets.training_dashboard import TrainingDashboard
from rlhf_lib.widgets.training_replay import TrainingReplay

__all__ = [
    "Annotator",
    "BradleyTerryExplorer",
    "ClipExplorer",
    "EstimatorExplorer",
    "GAEExplorer",
    "GroupExplorer",
    "OveroptimizationExplorer",
    "PolicyGradientBandit",
    "ReasoningReplay",
    "RewardMicroscope",
    "SampleExplorer",
    "TiltExplorer",
    "TrainingDashboard",
    "TrainingReplay",
]
