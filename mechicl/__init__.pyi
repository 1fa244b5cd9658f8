"""Written by `make declare`; see `__init__.py`."""

from mechicl import corpora as corpora
from mechicl import engines as engines
from mechicl import metrics as metrics
from mechicl import models as models
from mechicl import patches as patches
from mechicl import probes as probes
from mechicl import studies as studies
from mechicl import tasks as tasks
from mechicl.corpora import TokenCorpus as TokenCorpus
from mechicl.corpora import load_corpus as load_corpus
from mechicl.errors import InputError as InputError
from mechicl.errors import NumericalError as NumericalError
from mechicl.explorer import explore as explore
from mechicl.explorer import scan as scan
from mechicl.hooks import Patch as Patch
from mechicl.hooks import Probe as Probe
from mechicl.hooks import Watch as Watch
from mechicl.hooks import run as run
from mechicl.models import load_model as load_model
from mechicl.prompts import Prompt as Prompt
from mechicl.prompts import PromptSet as PromptSet
from mechicl.readings import Reading as Reading
from mechicl.results import Result as Result
from mechicl.studies import Study as Study
from mechicl.studies import information_flow as information_flow
from mechicl.studies import isolation as isolation
from mechicl.studies import layer_lesions as layer_lesions
from mechicl.studies import load_result as load_result
from mechicl.studies import load_studies as load_studies
from mechicl.studies import logit_lens as logit_lens
from mechicl.studies import reweighting as reweighting
from mechicl.studies import stages_atlas as stages_atlas
from mechicl.tasks import Task as Task
from mechicl.tasks import load_task as load_task

__version__: str
