# The public names, listed here once: `__init__.py` reads this file to import each name when it is first used, and type
# checkers read it in place of `__init__.py`.

# Build: before, while, after.
from .assess.evaluate import evaluate as evaluate
from .assess.forecast import plan as plan
from .assess.recompute import recompute as recompute
from .assess.validate import validate as validate
from .audit.export import export as export
from .audit.info import info as info
from .audit.repack import repack as repack
from .audit.signed import verify_signature as verify_signature
from .audit.status import status as status
from .audit.verify import verify as verify
from .builder.build import build as build

# Train: losses, schedules, weights of several tasks.
from .distill import multitask as multitask
from .distill import schedules as schedules
from .distill.decoupled import DecoupledKL as DecoupledKL
from .distill.decoupled import TailAwareKL as TailAwareKL
from .distill.detection import detection_loss as detection_loss
from .distill.detection import match_detections as match_detections
from .distill.distillation import count_items as count_items
from .distill.distillation import distillation_loss as distillation_loss
from .distill.features import attention_loss as attention_loss
from .distill.features import similarity_loss as similarity_loss
from .distill.objective import Distillation as Distillation
from .distill.projection import Projection as Projection
from .distill.regression import regression_loss as regression_loss

# Errors.
from .errors import AlignmentError as AlignmentError
from .errors import AugmentationError as AugmentationError
from .errors import CodecError as CodecError
from .errors import CommitConflict as CommitConflict
from .errors import CommitStateUnknown as CommitStateUnknown
from .errors import FormatError as FormatError
from .errors import IncompatibleTarget as IncompatibleTarget
from .errors import IncompleteCache as IncompleteCache
from .errors import IntegrityError as IntegrityError
from .errors import MissingExtra as MissingExtra
from .errors import RecipeError as RecipeError
from .errors import SoftcacheError as SoftcacheError
from .errors import StorageError as StorageError
from .errors import TaskError as TaskError
from .errors import TeacherError as TeacherError
from .errors import TransferSetError as TransferSetError
from .errors import UnknownTarget as UnknownTarget
from .errors import UnsupportedVersion as UnsupportedVersion

# Train: loaders.
from .loaders.attach import attach as attach
from .loaders.attach import collate as collate
from .loaders.ids import sample_ids as sample_ids
from .loaders.join import join as join
from .loaders.join import join_collate as join_collate
from .loaders.lightning import LightningMixin as LightningMixin
from .loaders.packing import collate_packs as collate_packs
from .loaders.packing import pack as pack
from .loaders.trainers import TrainerMixin as TrainerMixin
from .loaders.views import ViewDataset as ViewDataset
from .loaders.views import views as views

# Read.
from .read.cache import Cache as Cache
from .read.cache import open as open
from .read.target import Target as Target
from .recipe.example import init as init
from .soft.batch import SoftBatch as SoftBatch
from .soft.ensemble import ensemble as ensemble
from .soft.sequences import SoftSequences as SoftSequences
from .soft.specialists import specialists as specialists
from .soft.targets import SoftTargets as SoftTargets
from .store.gc import gc as gc
from .store.signatures import sign as sign
from .version import __version__ as __version__
