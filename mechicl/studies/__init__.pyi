"""Written by `make declare`; see `__init__.py`."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from mechicl.corpora import TokenCorpus, WordPairs
from mechicl.models import Model
from mechicl.probes import TunedLens
from mechicl.prompts import Prompt, PromptSet
from mechicl.results import Result
from mechicl.studies.call import call_of as call_of
from mechicl.tasks import Benchmarks

from mechicl.studies.study import STUDIES as STUDIES
from mechicl.studies.study import Study as Study
from mechicl.studies.stages.atlas import compare_atlases as compare_atlases
from mechicl.studies.several import compare_models as compare_models
from mechicl.studies.stages.voters import find_neurons as find_neurons
from mechicl.studies.stages.in_context_atlas import in_context_atlas as in_context_atlas
from mechicl.studies.label_words.isolation_examples import isolation_examples as isolation_examples
from mechicl.studies.stages.joined_atlas import joined_atlas as joined_atlas
from mechicl.studies.loading import load_result as load_result
from mechicl.studies.loading import load_studies as load_studies
from mechicl.studies.stages.voters import neuron_tokens as neuron_tokens
from mechicl.studies.label_words.saliency_map import saliency_figure as saliency_figure
from mechicl.studies.label_words.saliency_map import saliency_map as saliency_map
from mechicl.studies.loading import saved_results as saved_results
from mechicl.studies.label_words.one_prompt import OnePrompt as OnePrompt
from mechicl.studies.label_words.information_flow import InformationFlow as InformationFlow
from mechicl.studies.label_words.isolation import Isolation as Isolation
from mechicl.studies.label_words.deep_layers import DeepLayers as DeepLayers
from mechicl.studies.label_words.reweighting import Reweighting as Reweighting
from mechicl.studies.label_words.compression import Compression as Compression
from mechicl.studies.label_words.compression_speed import CompressionSpeed as CompressionSpeed
from mechicl.studies.label_words.error_diagnosis import ErrorDiagnosis as ErrorDiagnosis
from mechicl.studies.label_words.anchor_kinds import AnchorKinds as AnchorKinds
from mechicl.studies.stages.atlas import Atlas as Atlas
from mechicl.studies.stages.benchmarks import LesionedBenchmarks as LesionedBenchmarks
from mechicl.studies.stages.lesions import Lesions as Lesions
from mechicl.studies.stages.token_lesions import TokenLesions as TokenLesions
from mechicl.studies.stages.cka import Cka as Cka
from mechicl.studies.stages.local_attention import LocalAttentionStudy as LocalAttentionStudy
from mechicl.studies.stages.joiner_ablation import JoinerAblation as JoinerAblation
from mechicl.studies.stages.word_merging import WordMerging as WordMerging
from mechicl.studies.stages.context_exchange import ContextExchange as ContextExchange
from mechicl.studies.stages.word_identity import WordIdentity as WordIdentity
from mechicl.studies.stages.wic import Wic as Wic
from mechicl.studies.stages.lens import LensStudy as LensStudy
from mechicl.studies.stages.part_of_speech import PartOfSpeech as PartOfSpeech
from mechicl.studies.stages.causal_stages import CausalStages as CausalStages
from mechicl.studies.stages.class_logits import ClassLogits as ClassLogits
from mechicl.studies.stages.voting import Voting as Voting
from mechicl.studies.stages.neurons import NeuronsStudy as NeuronsStudy
from mechicl.studies.stages.many_lesions import ManyLesions as ManyLesions
from mechicl.studies.stages.norms import NormsStudy as NormsStudy
from mechicl.studies.stages.entropy_neurons import EntropyNeurons as EntropyNeurons
from mechicl.studies.stages.right_then_wrong import RightThenWrong as RightThenWrong
from mechicl.studies.stages.inner_lexicon import InnerLexicon as InnerLexicon
from mechicl.studies.stages.in_context import LesionedLearning as LesionedLearning
from mechicl.studies.extensions.anchor_heads import AnchorHeads as AnchorHeads
from mechicl.studies.extensions.anchor_sweep import AnchorSweep as AnchorSweep
from mechicl.studies.extensions.decision_layer import DecisionLayer as DecisionLayer
from mechicl.studies.extensions.shot_sweep import ShotSweep as ShotSweep
from mechicl.studies.extensions.anchor_patching import AnchorPatching as AnchorPatching

def one_prompt(
    model: Model,
    prompts: PromptSet | Sequence[PromptSet] | Sequence[Prompt],
    *,
    prompt: int = 0,
    layers: Sequence[int] | None = None,
    head_reduce: Literal['abs_of_sum', 'sum_of_abs'] = 'abs_of_sum',
    batch_size: int = 16,
) -> Result:
    """The strongest edges of one prompt in a shallow and in a deep layer.

    Information flow in one prompt (Label Words are Anchors, section 1, Fig. 1).

    The paper: Label words gather the demonstrations' information in shallow layers, and the target
    position reads it from them in deep layers (an illustration).

    Args:
        model: a HookedTransformer, a TransformerBridge, or an object that implements
            `mechicl.models.Adapter`.
        prompts: prompts of one or more tasks, from `task.prompts`.
        prompt: Index of the prompt, from 0.
        layers: Layers to draw; default: at one quarter and three quarters of the depth.
        head_reduce: How saliency is summed over heads: abs_of_sum (the authors' code) or sum_of_abs
            (footnote 3).
        batch_size: prompts or sequences per pass.

    Returns:
        A result. A row per layer and token of the prompt: its text, its role (w, p, q or none), and its
        edges' saliency. There is one value per token of the prompt, 0 from its own position on.
    """

def information_flow(
    model: Model,
    prompts: PromptSet | Sequence[PromptSet] | Sequence[Prompt],
    *,
    head_reduce: Literal['abs_of_sum', 'sum_of_abs'] = 'abs_of_sum',
    loss: Literal['cross_entropy', 'logit_difference'] = 'cross_entropy',
    target: Literal['gold', 'predicted'] = 'gold',
    untrained: int = 4,
    by_head: bool = False,
    protocol: Literal['paper', 'corrected'] = 'corrected',
    batch_size: int = 16,
) -> Result:
    """Saliency flow into and out of label words, by layer.

    Information flow through label words (Label Words are Anchors, section 2.1, Fig. 3).

    The paper: In shallow layers information flows from the demonstrations' text into the label words
    (S_wp); in deep layers it flows from the label words to the target position (S_pq).

    Args:
        model: a HookedTransformer, a TransformerBridge, or an object that implements
            `mechicl.models.Adapter`.
        prompts: prompts of one or more tasks, from `task.prompts`.
        head_reduce: How saliency is summed over heads: abs_of_sum (the authors' code) or sum_of_abs
            (footnote 3).
        loss: cross_entropy over the label words (the paper), in nats, or logit_difference.
        target: Class whose loss is differentiated: gold (the paper) or predicted.
        untrained: Number of untrained twins, each run on part of the prompts; 0 leaves every claim
            undecided.
        by_head: Also measure reading and gathering of every head.
        protocol: corrected, or paper (reproduces the authors' code).
        batch_size: prompts or sequences per pass.

    Returns:
        A result. A row per prompt and layer, of the model and of its untrained twins. Raw S_wp, S_pq
        and S_ww, in units of the loss per edge, with heads reduced in both ways, and S_wp_text, without
        edges from position 0 and from other label words; reading and gathering of label words, random
        text, colons and line breaks, times an average token's.
    """

def isolation(
    model: Model,
    prompts: PromptSet | Sequence[PromptSet] | Sequence[Prompt],
    *,
    n_layers: Sequence[int] = (1, 3, 5),
    mode: Literal['presoftmax', 'presoftmax_keep_0', 'postsoftmax_zero', 'postsoftmax_renorm'] = 'presoftmax',
    modes: Sequence[Literal['presoftmax', 'presoftmax_keep_0', 'postsoftmax_zero', 'postsoftmax_renorm', 'exchange']] = ('presoftmax_keep_0', 'postsoftmax_zero', 'exchange'),
    pool: Literal['all', 'demo_text', 'demo_template'] = 'all',
    resample: Literal['per_layer', 'per_prompt', 'per_seed'] = 'per_prompt',
    span: Literal['anchor', 'label'] = 'anchor',
    random_seed: int = 0,
    protocol: Literal['paper', 'corrected'] = 'corrected',
    batch_size: int = 16,
) -> Result:
    """Predictions when label words cannot attend to anything before them.

    Isolating label words (Label Words are Anchors, section 2.2, Fig. 4 and 8).

    The paper: Isolating the label words in the first layers changes the prediction; isolating them in
    the last layers, or isolating the same number of random tokens, hardly does.

    Args:
        model: a HookedTransformer, a TransformerBridge, or an object that implements
            `mechicl.models.Adapter`.
        prompts: prompts of one or more tasks, from `task.prompts`.
        n_layers: Numbers of first (and of last) layers to isolate.
        mode: How attention is cut: presoftmax (the authors' code), presoftmax_keep_0 (keeps the edge to
            position 0), postsoftmax_zero or postsoftmax_renorm.
        modes: Additional modes (protocol corrected); a claim is supported only if its interval lies
            above 0 in each. To add none, give the value of mode. exchange does not affect the verdict:
            it replaces what label words gather with what those of the same class gather in another
            demonstration set (its control does this to text tokens), and needs two demonstration sets.
        pool: Where random tokens are drawn from: all (any position before the target, query and
            template included), demo_text or demo_template.
        resample: When random tokens are redrawn: per_prompt, per_layer (the authors) or per_seed (needs
            pool demo_text or demo_template).
        span: Which tokens of a label word are isolated: its anchor, or all (label).
        random_seed: Seed of the random control.
        protocol: corrected, or paper (reproduces the authors' code).
        batch_size: prompts or sequences per pass.

    Returns:
        A result. A row per prompt and condition (label words or random tokens isolated in the first or
        last n layers). Gold and predicted class, label probabilities, probability of all label words
        over the vocabulary, and top-10 token ids. For the claimed number of layers, also norms of the
        residual after them, at label words and at position 0.
    """

def deep_layers(
    model: Model,
    prompts: PromptSet | Sequence[PromptSet] | Sequence[Prompt],
    *,
    weight: Literal['attention', 'norm'] = 'attention',
    protocol: Literal['paper', 'corrected'] = 'corrected',
    batch_size: int = 16,
) -> Result:
    """How well attention to the label words predicts the output, by layer.

    Deep layers read the label words (Label Words are Anchors, section 2.3, Fig. 5).

    The paper: In deep layers the attention to the label words predicts the output: the AUROC approaches
    0.8, and nearly all of R accumulates in middle and deep layers.

    Args:
        model: a HookedTransformer, a TransformerBridge, or an object that implements
            `mechicl.models.Adapter`.
        prompts: prompts of one or more tasks, from `task.prompts`.
        weight: attention (the paper), or norm: attention times the norm of the value vector.
        protocol: corrected, or paper (reproduces the authors' code).
        batch_size: prompts or sequences per pass.

    Returns:
        A result. A row per prompt and layer: attention from q to each class's label words, summed over
        heads. Also gold and predicted class, and the attention of every head, which `attention_by_head`
        extracts.
    """

def reweighting(
    model: Model,
    prompts: PromptSet | Sequence[PromptSet] | Sequence[Prompt],
    *,
    lr: float = 0.01,
    epochs: int = 10,
    per_class: int = 4,
    more_shots: int = 5,
    random_seed: int = 0,
    protocol: Literal['paper', 'corrected'] = 'corrected',
    batch_size: int = 16,
) -> Result:
    """Accuracy with learned attention to the label words, and controls.

    Re-weighting the anchors (Label Words are Anchors, section 3.1, Table 1).

    The paper: Learning how strongly the target attends to each class's label word raises accuracy far
    above that of the same demonstrations, and above that of more demonstrations.

    Args:
        model: a HookedTransformer, a TransformerBridge, or an object that implements
            `mechicl.models.Adapter`.
        prompts: prompts of one or more tasks, from `task.prompts`.
        lr: Learning rate of Adam.
        epochs: Epochs over the training prompts.
        per_class: Training prompts per class.
        more_shots: Demonstrations per class of the many-shot baseline, or as many as fit; 0 leaves it
            out.
        random_seed: Seed of the random positions.
        protocol: corrected, or paper (reproduces the authors' code).
        batch_size: prompts or sequences per pass.

    Returns:
        A result. A row per prompt and method, with or without re-weighted anchors: the prediction. Gold
        and predicted class, and the scores of the label words. The first row of a method that learns a
        beta also holds the beta, and loss and accuracy on the training prompts by epoch.
    """

def compression(
    model: Model,
    prompts: PromptSet | Sequence[PromptSet] | Sequence[Prompt],
    *,
    kept: Sequence[Literal['label', 'template', 'label+template', 'separators', 'template words', 'label+separators', 'label+template words']] = ('label+template', 'label', 'template'),
    positions: Sequence[Literal['original', 'zero', 'packed']] = ('original', 'zero', 'packed'),
    n_sets: int = 20,
    random_seed: int = 0,
    protocol: Literal['paper', 'corrected'] = 'corrected',
    batch_size: int = 16,
) -> Result:
    """Predictions from the label words and template of the context alone.

    Compressing the context to its anchors (Label Words are Anchors, section 3.2, Table 2).

    The paper: The hidden states of label words and template alone keep most of the predictions of the
    full context; the same words as text, or random tokens in place of the label words, do not.

    Args:
        model: a HookedTransformer, a TransformerBridge, or an object that implements
            `mechicl.models.Adapter`.
        prompts: prompts of one or more tasks, from `task.prompts`.
        kept: Parts of the context whose hidden states are kept.
        positions: Position ids of queries: original, zero or packed; controls are measured at the
            first.
        n_sets: Number of random sets.
        random_seed: Seed of the random sets.
        protocol: corrected, or paper (reproduces the authors' code).
        batch_size: prompts or sequences per pass.

    Returns:
        A result. A row per prompt, condition and random set: the prediction from the kept part of the
        context. Gold and predicted class, label probabilities, top-10 token ids, and the number of
        context tokens.
    """

def compression_speed(
    model: Model,
    prompts: PromptSet | Sequence[PromptSet] | Sequence[Prompt],
    *,
    warm_up: int = 3,
    repeats: int = 3,
    lr: float = 0.01,
    per_class: int = 4,
    protocol: Literal['paper', 'corrected'] = 'corrected',
) -> Result:
    """Time, operations and memory of queries on whole and on compressed contexts.

    How fast a compressed context is (Label Words are Anchors, section 3.2, Tables 3 and 6).

    The paper: Queries on the hidden states of label words and template are 1.1 to 2.9 times as fast as
    whole prompts, the more so the longer the demonstrations.

    Args:
        model: a HookedTransformer, a TransformerBridge, or an object that implements
            `mechicl.models.Adapter`.
        prompts: prompts of one or more tasks, from `task.prompts`.
        warm_up: Untimed queries before the measurement.
        repeats: Repetitions of each query; the median is reported.
        lr: Learning rate of the re-weighted methods.
        per_class: Training prompts per class of the re-weighted methods; 0 leaves them out.
        protocol: corrected, or paper (reproduces the authors' code).

    Returns:
        A result. A row per prompt and arm (the kept part of the context): seconds, operations and
        memory of the query. Gold and predicted class, tokens read, tokens and bytes in the cache,
        seconds of the one pass that fills the cache, and the words of demonstrations and query.
    """

def error_diagnosis(
    model: Model,
    prompts: PromptSet | Sequence[PromptSet] | Sequence[Prompt],
    *,
    components: Sequence[int] = (5, 10, 20, 50, 100, 200),
    layer: int | None = None,
    contexts: int = 64,
    protocol: Literal['paper', 'corrected'] = 'corrected',
    batch_size: int = 16,
) -> Result:
    """Whether distances between anchors predict which classes are confused.

    Near anchors, confused classes (Label Words are Anchors, section 3.3, Fig. 6 and 14).

    The paper: Classes whose label words have keys close together are the ones that the model confuses:
    on TREC, Description and Entity most of all.

    Args:
        model: a HookedTransformer, a TransformerBridge, or an object that implements
            `mechicl.models.Adapter`.
        prompts: prompts of one or more tasks, from `task.prompts`.
        components: Numbers of principal components.
        layer: Layer of the heatmap; default: at two thirds of the depth.
        contexts: Demonstration sets; halved until the data suffice.
        protocol: corrected, or paper (reproduces the authors' code).
        batch_size: prompts or sequences per pass.

    Returns:
        A result. A row per pair of classes: real confusion, and the distance between their scaled
        anchor keys. Real confusion, an AUROC, has layer -1; distances have a row per context, layer and
        number of components.
    """

def anchor_kinds(
    model: Model,
    prompts: PromptSet | Sequence[PromptSet] | Sequence[Prompt],
    *,
    random_seed: int = 0,
    batch_size: int = 16,
) -> Result:
    """Label words, separators, template words and random text: isolated, kept alone, left out.

    How special label words are (beyond Label Words are Anchors, sections 2.2 and 3.2).

    The claim: Label words are the anchors; with label words alone, without the template, compression
    fails (footnote 6).

    Args:
        model: a HookedTransformer, a TransformerBridge, or an object that implements
            `mechicl.models.Adapter`.
        prompts: prompts of one or more tasks, from `task.prompts`.
        random_seed: Seed of the random text tokens.
        batch_size: prompts or sequences per pass.

    Returns:
        A result. A row per prompt, change (isolated, kept alone or left out) and kind of token: the
        prediction. Gold and predicted class, label probabilities, top-10 token ids, and the number of
        tokens of the kind.
    """

def stages_atlas(
    model: Model,
    corpus: TokenCorpus,
    *,
    untrained: int = 4,
    batch_size: int = 4,
) -> Result:
    """All signatures of the four stages on relative depth, with proposed boundaries.

    The stages of inference (Stages of Inference, Fig. 1 and Table 1).

    The paper: Four stages, each with its signature: detokenization (local attention), feature
    engineering (lens KL hardly falls), prediction ensembling (prediction neurons, falling lens KL),
    calibration (suppression neurons, large MLP norms).

    Args:
        model: a HookedTransformer, a TransformerBridge, or an object that implements
            `mechicl.models.Adapter`.
        corpus: running text, from `mi.load_corpus`.
        untrained: Number of untrained twins, each run on part of the input; 0 leaves claims that need
            them undecided.
        batch_size: prompts or sequences per pass.

    Returns:
        A result. All signatures of the stages: a row per signature, layer and sequence. KL in nats,
        entropies in bits, attention and densities as shares. `result.study.boundaries(result.table)`
        gives the stages.
    """

def benchmarks(
    model: Model,
    tasks: Benchmarks,
    *,
    kinds: Sequence[Literal['drop', 'swap', 'repeat']] = ('drop', 'swap', 'repeat'),
    windows: Sequence[int] = (5,),
    prepend_bos: bool = False,
    batch_size: int = 16,
) -> Result:
    """HellaSwag, ARC-Easy and LAMBADA with layers dropped, swapped or repeated (extra lm-eval).

    Benchmarks under layer ablation (Stages of Inference, section 4.1, Fig. 15 and 16; section 5.4, Fig.
    24).

    The paper: Dropping or swapping middle layers costs little accuracy; repeating windows of layers at
    80-90 % of depth adds some.

    Args:
        model: a HookedTransformer, a TransformerBridge, or an object that implements
            `mechicl.models.Adapter`.
        tasks: benchmarks of lm-evaluation-harness, from `mi.tasks.load_benchmarks`.
        kinds: Ablations of each layer.
        windows: Lengths of repeated windows.
        prepend_bos: Prepend a BOS to every request, as the harness does for Llama.
        batch_size: prompts or sequences per pass.

    Returns:
        A result. Scores of every document, for the clean model and every ablation: a row per ablation
        and document. `acc` is 1 if the answer is right, `acc_norm` the same by log-probability per
        byte; layer -1 is the clean model.
    """

def layer_lesions(
    model: Model,
    corpus: TokenCorpus,
    *,
    untrained: int = 4,
    kinds: Sequence[Literal['drop', 'swap', 'attention', 'mlp', 'replace', 'repeat']] = ('drop', 'swap'),
    windows: Sequence[int] = (3, 5),
    times: int = 1,
    positions: Sequence[Literal['all', 'bos', 'rest']] = ('all', 'bos', 'rest'),
    protocol: Literal['paper', 'corrected'] = 'corrected',
    batch_size: int = 4,
) -> Result:
    """Predictions with each layer dropped, swapped with the next, replaced or repeated.

    Layer ablations (Stages of Inference, section 4.1, Fig. 2 and 3; section 5.4).

    The paper: Dropping or swapping a middle layer leaves 72-95 % of top-1 predictions unchanged. The
    first layer, and in some models the last, is indispensable. Swapping hurts less than dropping.

    Args:
        model: a HookedTransformer, a TransformerBridge, or an object that implements
            `mechicl.models.Adapter`.
        corpus: running text, from `mi.load_corpus`.
        untrained: Number of untrained twins, each run on part of the input; 0 leaves claims that need
            them undecided.
        kinds: Ablations of each layer.
        windows: Lengths of repeated windows.
        times: How many more times each layer of a repeated window runs.
        positions: Where layers are dropped: at all positions, at position 0 alone, or elsewhere (whole
            layers).
        protocol: corrected, or paper (reproduces the authors' code).
        batch_size: prompts or sequences per pass.

    Returns:
        A result. Every layer dropped, swapped with the next, and so on: a row per ablation and
        sequence. The kinds "drop, bos" and "drop, rest" are drops at position 0 alone, and everywhere
        else; likewise "attention, bos" and "mlp, bos". KL and losses in nats, agreement as a share,
        entropies in bits.
    """

def token_lesions(
    model: Model,
    corpus: TokenCorpus,
    *,
    kind: Literal['drop', 'swap', 'attention', 'mlp', 'replace'] = 'drop',
    positions: Literal['all', 'bos', 'rest'] = 'all',
    batch_size: int = 4,
) -> Result:
    """Which predictions a layer ablation changes: by place in the word, position and entropy.

    Which predictions a layer ablation changes (Stages of Inference, section 4.1; by token, a test of
    our own).

    The paper: Early layers merge tokens into words, and middle layers can be dropped.

    Args:
        model: a HookedTransformer, a TransformerBridge, or an object that implements
            `mechicl.models.Adapter`.
        corpus: running text, from `mi.load_corpus`.
        kind: Ablation of each layer.
        positions: Where layers (attention, MLPs) are dropped: at all positions, at position 0 alone,
            elsewhere.
        batch_size: prompts or sequences per pass.

    Returns:
        A result. KL and agreement, by the token at which a prediction is made: a row per layer,
        sequence and group of tokens. KL(clean || ablated) in nats and agreement as a share, averaged
        over a group's positions; and, for the first sequence's first tokens, a row per layer and token
        (`by` is "token").
    """

def cka(
    model: Model,
    corpus: TokenCorpus,
    *,
    untrained: int = 4,
    minibatch: int = 16,
    protocol: Literal['paper', 'corrected'] = 'corrected',
    batch_size: int = 8,
) -> Result:
    """Similarity of all layers' representations at last tokens: linear CKA and its blocks.

    Similarity of layers (linear CKA) (Stages of Inference, section 5, Fig. 4, 5 and 14).

    The paper: Layers form blocks of similar representations, and the blocks agree with the stages.

    Args:
        model: a HookedTransformer, a TransformerBridge, or an object that implements
            `mechicl.models.Adapter`.
        corpus: running text, from `mi.load_corpus`.
        untrained: Number of untrained twins, each run on part of the input; 0 leaves claims that need
            them undecided.
        minibatch: Sequences per HSIC minibatch (protocol paper: 128).
        protocol: corrected, or paper (reproduces the authors' code).
        batch_size: prompts or sequences per pass.

    Returns:
        A result. HSIC between every two depths of the residual: a row per minibatch, kind of residual
        and pair of depths. `leverage`, the largest share of one sequence in a depth's similarities, is
        given if both depths are the same. `result.study.block_structure(result.table)` gives the
        blocks.
    """

def local_attention(
    model: Model,
    corpus: TokenCorpus,
    *,
    windows: Sequence[int] = (1, 2, 4, 5, 8, 16),
    by_head: bool = False,
    protocol: Literal['paper', 'corrected'] = 'corrected',
    batch_size: int = 8,
) -> Result:
    """Attention to the previous tokens, to position 0 and to itself, by layer and head.

    Attention to the previous tokens (Stages of Inference, section 5.1, Fig. 6a).

    The paper: In the first layers attention is local: it merges the last few tokens into words. With
    depth it becomes less local.

    Args:
        model: a HookedTransformer, a TransformerBridge, or an object that implements
            `mechicl.models.Adapter`.
        corpus: running text, from `mi.load_corpus`.
        windows: Numbers of previous tokens.
        by_head: Also draw the attention of every head.
        protocol: corrected, or paper (reproduces the authors' code).
        batch_size: prompts or sequences per pass.

    Returns:
        A result. Attention to the previous k tokens, to position 0 and to itself: a row per sequence,
        layer and head. Shares of attention, between 0 and 1.
    """

def joiner_ablation(
    model: Model,
    corpus: TokenCorpus,
    *,
    pieces: Sequence[int] = (2, 3),
    heads: int = 4,
    draws: int = 8,
    draw_seed: int = 0,
    batch_size: int = 4,
) -> Result:
    """Loss after multi-token words without sub-joiner heads, and what these heads attend to.

    Sub-joiner heads ablated (Stages of Inference, section 5.1, Fig. 6b; a test of our own).

    The paper: Early heads merge the tokens of a word.

    Args:
        model: a HookedTransformer, a TransformerBridge, or an object that implements
            `mechicl.models.Adapter`.
        corpus: running text, from `mi.load_corpus`.
        pieces: Tokens per word; heads are selected for each number.
        heads: Number of sub-joiner heads, best first; at most half of a layer's.
        draws: Random draws of control heads in the same layers.
        draw_seed: Seed of the draws.
        batch_size: prompts or sequences per pass.

    Returns:
        A result. Loss after words with heads ablated, and what these heads attend to, by the column
        `part`. "ablation", a row per set of heads, sequence and kind of word: `draw` is -1 for the sub-
        joiner heads and numbers the random ones; `cost` is the added loss in nats, averaged over
        `words` words; `after` is the kind of word. "pattern", a row per sequence, sub-joiner head,
        tokens of the word (`pieces`) and distance: attention of the word's last token to the token
        `back` positions earlier, averaged over `words` words. "example": the same for single words, by
        the best head.
    """

def word_merging(
    model: Model,
    corpus: TokenCorpus,
    *,
    pieces: Sequence[int] = (2, 3, 4),
    batch_size: int = 8,
) -> Result:
    """Whether early layers merge a word's tokens: attention, sub-joiner heads, cut edges.

    Merging the tokens of a word (Stages of Inference, section 5.1, Fig. 6b; tests of our own).

    The paper: Early layers have sub-joiner heads, which attend from a word's last token to its other
    tokens and merge them into a word.

    Args:
        model: a HookedTransformer, a TransformerBridge, or an object that implements
            `mechicl.models.Adapter`.
        corpus: running text, from `mi.load_corpus`.
        pieces: Tokens per word; heads are ranked for each number.
        batch_size: prompts or sequences per pass.

    Returns:
        A result. Attention inside and between words, and the cost of cutting it: a row per sequence and
        head, or per cut. Attention (shares between 0 and 1) by sequence, layer, head and distance or
        number of tokens; losses in nats by sequence, cut and layer. `result.study.heads(result.table)`
        ranks all heads.
    """

def context_exchange(
    model: Model,
    corpus: TokenCorpus,
    *,
    untrained: int = 4,
) -> Result:
    """How much of each layer's output the current token explains, with the context before it exchanged.

    The same tokens after another context (Stages of Inference, section 5.1; a test of our own).

    The paper: The first layer is an extension of the embedding: its output depends on the current token
    alone.

    Args:
        model: a HookedTransformer, a TransformerBridge, or an object that implements
            `mechicl.models.Adapter`.
        corpus: running text, from `mi.load_corpus`.
        untrained: Number of untrained twins, each run on part of the input; 0 leaves claims that need
            them undecided.

    Returns:
        A result. How far residuals and attention outputs move when the context is exchanged: a row per
        sequence, layer, distance. Sums over positions of squared distances: `moved` to the same token
        after the other context, `spread` to another token at the same position; `positions` and
        `differing` count their terms. `distance` is to the exchange, from each power of two to the
        next. Vectors have unit length, except in `_raw` columns.
    """

def word_identity(
    model: Model,
    corpus: TokenCorpus,
    *,
    pieces: Sequence[int] = (2, 3),
    occurrences: int = 10,
    classes: int = 40,
    context: int = 24,
    draw_seed: int = 0,
    batch_size: int = 32,
) -> Result:
    """At which depth a linear probe identifies a word from its last token.

    Which word ended here (Stages of Inference, section 5.1; a test of our own).

    The paper: The first layers merge the tokens of a word into one representation.

    Args:
        model: a HookedTransformer, a TransformerBridge, or an object that implements
            `mechicl.models.Adapter`.
        corpus: running text, from `mi.load_corpus`.
        pieces: Tokens per word; one panel per number.
        occurrences: Contexts per word; at least one per fold.
        classes: Maximum number of words to distinguish.
        context: Tokens per context, including the word.
        draw_seed: Seed of all draws.
        batch_size: prompts or sequences per pass.

    Returns:
        A result. Accuracy of a linear probe for the word that ends: a row per sequence, point, length
        and kind of span. The share of that sequence's contexts that the probe predicts, between 0 and
        1; `one_shot`: that the nearest single example predicts.
    """

def wic(
    model: Model,
    pairs: WordPairs,
    *,
    seed: int = 0,
    batch_size: int = 32,
) -> Result:
    """At which depth a linear probe predicts whether a word has the same sense in two sentences.

    Word in context (Stages of Inference, section 5.2, Fig. 7 and 18).

    The paper: Linear-probe accuracy for a word's sense rises, peaks in middle layers, and declines.

    Args:
        model: a HookedTransformer, a TransformerBridge, or an object that implements
            `mechicl.models.Adapter`.
        pairs: pairs of sentences that share a word, from `mi.corpora.load_word_pairs`.
        seed: Seed of the folds and of the control's labels.
        batch_size: prompts or sequences per pass.

    Returns:
        A result. Whether each dev pair is classified correctly: a row per dev pair, depth and linear
        probe.
    """

def logit_lens(
    model: Model,
    corpus: TokenCorpus,
    *,
    untrained: int = 4,
    top_k: int = 10,
    authors_lens: bool = False,
    tuned: TunedLens | str | Path | None = None,
    protocol: Literal['paper', 'corrected'] = 'corrected',
    batch_size: int = 8,
) -> Result:
    """The residual stream after each layer read as a prediction: corrected, authors' and tuned lens.

    Logit lens (Stages of Inference, section 5.2, Fig. 8 and 19).

    The paper: In the first half the prediction hardly approaches its final form; then its distance to
    the final prediction and its entropy fall, and in some models entropy rises again in the last
    layers.

    Args:
        model: a HookedTransformer, a TransformerBridge, or an object that implements
            `mechicl.models.Adapter`.
        corpus: running text, from `mi.load_corpus`.
        untrained: Number of untrained twins, each run on part of the input; 0 leaves claims that need
            them undecided.
        top_k: k of the top-k overlap.
        authors_lens: Also draw the authors' faulty lens.
        tuned: A tuned lens to draw as well, or its folder; it must have been fitted to this model on
            other text.
        protocol: corrected, or paper (reproduces the authors' code).
        batch_size: prompts or sequences per pass.

    Returns:
        A result. Measures of the lens at L + 1 points of every sequence; of untrained twins, entropy
        and KL alone.
    """

def part_of_speech(
    model: Model,
    corpus: TokenCorpus,
    *,
    words: int = 1000,
    context: int = 24,
    draw_seed: int = 0,
    batch_size: int = 32,
) -> Result:
    """At which depth a linear probe predicts a word's part of speech, against a control task.

    Part of speech (Stages of Inference, section 5.2; a test of our own).

    The paper: The first half of the model computes features of words: linear-probe accuracy rises,
    peaks and declines.

    Args:
        model: a HookedTransformer, a TransformerBridge, or an object that implements
            `mechicl.models.Adapter`.
        corpus: running text, from `mi.load_corpus`.
        words: Maximum number of words, drawn at random from the text.
        context: Tokens per context, including the word's own.
        draw_seed: Seed of words, folds and control task.
        batch_size: prompts or sequences per pass.

    Returns:
        A result. Shares of each sequence's words whose part of speech is predicted correctly: a row per
        sequence and point. `probe`, `control` (the control task), `by_word` (the word's most frequent
        part of speech in the training text) and `majority` (the most frequent one overall) are shares
        of `words` words.
    """

def causal_stages(
    model: Model,
    corpus: TokenCorpus,
    *,
    bands: int = 4,
    draws: int = 4,
    draw_seed: int = 0,
    batch_size: int = 4,
) -> Result:
    """Ablation of prediction and suppression neurons, attention and MLPs, by band of depth.

    Stages by intervention (Stages of Inference, section 5.3 and 5.4; a test of our own).

    The paper: Prediction neurons make the prediction in the second half of the model; suppression
    neurons of the last layers sharpen it.

    Args:
        model: a HookedTransformer, a TransformerBridge, or an object that implements
            `mechicl.models.Adapter`.
        corpus: running text, from `mi.load_corpus`.
        bands: Number of bands of depth, each with the same number of layers.
        draws: Random draws of matched control neurons.
        draw_seed: Seed of the draws.
        batch_size: prompts or sequences per pass.

    Returns:
        A result. Predictions with a part of a band of layers ablated: a row per ablation and sequence.
        `kind` is prediction or suppression (neurons), attention or MLPs; `draw` is -1 for the part
        itself and numbers its controls; `how` is zero or mean; `neurons` counts ablated neurons, and
        `written` sums what they write beyond their means (L2 norms over d_model). KL and losses in
        nats, entropies in bits.
    """

def class_logits(
    model: Model,
    *,
    token_class: str | Sequence[str | int] | Sequence[str] | Sequence[int] | Callable[[str], bool] = '-ing',
    kurtosis: float = 10.0,
    variance: float = 0.005,
    neurons: int = 36,
    protocol: Literal['paper', 'corrected'] = 'corrected',
) -> Result:
    """Histograms of what single neurons add to the logits of a class of tokens and of all others.

    What neurons add to the logits of a class (Stages of Inference, section 5.3 and appendix I).

    The paper: Single neurons promote, or suppress, the tokens that end in -ing against all others.

    Args:
        model: a HookedTransformer, a TransformerBridge, or an object that implements
            `mechicl.models.Adapter`.
        token_class: A suffix (-ing), comma-separated words, or a file with a word per line; in Python
            also token ids, or a function of a token's text.
        kurtosis: Neurons of larger kurtosis are candidates, whatever their variance.
        variance: Neurons of larger variance are candidates, whatever their kurtosis.
        neurons: Number of neurons of largest effect.
        protocol: corrected, or paper (reproduces the authors' code).

    Returns:
        A result. Histograms of what neurons add to the logits of a class and of all other tokens: a row
        per neuron and bin. Bins (left to right, in logits per unit of activation) have equal width
        between a neuron's smallest and largest value; `members` and `others` count the tokens of the
        class and the other tokens in each.
    """

def voting(
    model: Model,
    corpus: TokenCorpus,
    *,
    token_class: str | Sequence[str | int] | Sequence[str] | Sequence[int] | Callable[[str], bool] = '-ing',
    kurtosis: float = 10.0,
    variance: float = 0.005,
    neurons: int = 32,
    pairs: int = 500,
    context: int = 24,
    draw_seed: int = 0,
    protocol: Literal['paper', 'corrected'] = 'corrected',
    batch_size: int = 32,
) -> Result:
    """Neurons that predict whether the next token is of a class, alone and in ensembles.

    Neurons that vote for a class of tokens (Stages of Inference, section 5.3 and appendix I).

    The paper: The best single neurons, which are suppression neurons, predict whether the next token
    ends in -ing about as well as the model does. Ensembles of prediction neurons do better than both.

    Args:
        model: a HookedTransformer, a TransformerBridge, or an object that implements
            `mechicl.models.Adapter`.
        corpus: running text, from `mi.load_corpus`.
        token_class: A suffix (-ing), comma-separated words, or a file with a word per line; in Python
            also token ids, or a function of a token's text.
        kurtosis: Neurons of larger kurtosis are candidates, whatever their variance.
        variance: Neurons of larger variance are candidates, whatever their kurtosis.
        neurons: Number of neurons of each kind.
        pairs: Maximum number of context pairs.
        context: Tokens per context.
        draw_seed: Seed of all draws.
        protocol: corrected, or paper (reproduces the authors' code).
        batch_size: prompts or sequences per pass.

    Returns:
        A result. Accuracy of linear probes on neurons, of votes, and of the model itself: a row per
        test sequence and measure. Accuracy over that sequence's contexts, between 0 and 1: for probes
        on single neurons and on ensembles, for votes without training, and for the model itself.
    """

def neurons(
    model: Model,
    *,
    kurtosis: float = 10.0,
    variance: float = 0.005,
    protocol: Literal['paper', 'corrected'] = 'corrected',
) -> Result:
    """Prediction, suppression and partition neurons by layer, from weights alone.

    Prediction and suppression neurons (Stages of Inference, section 5.3, Fig. 8 and 17).

    The paper: Prediction neurons appear in the middle of a model and are densest at about 85 % of its
    depth; suppression neurons take over in the last layers.

    Args:
        model: a HookedTransformer, a TransformerBridge, or an object that implements
            `mechicl.models.Adapter`.
        kurtosis: Minimum kurtosis of a prediction or suppression neuron (a Gaussian has 3).
        variance: Minimum variance of a partition neuron.
        protocol: corrected, or paper (reproduces the authors' code).

    Returns:
        A result. Vocabulary moments of neurons, and the density of each kind by layer: a row per
        neuron. Moments of its cosines with the vocabulary, the L2 norms of what it writes and reads,
        and rho.
    """

def many_lesions(
    model: Model,
    corpus: TokenCorpus,
    *,
    draws: int = 8,
    draw_seed: int = 0,
    positions: Literal['all', 'rest'] = 'all',
    spare_ends: bool = True,
    batch_size: int = 4,
) -> Result:
    """Predictions with more and more random middle layers dropped or shuffled.

    Several layers at once (Stages of Inference, section 5.4 (extension, after Veit et al. 2016)).

    The paper: Middle layers act like an ensemble of shallow paths: as more of them are dropped or
    shuffled, predictions change gradually.

    Args:
        model: a HookedTransformer, a TransformerBridge, or an object that implements
            `mechicl.models.Adapter`.
        corpus: running text, from `mi.load_corpus`.
        draws: Random sets or orders per size.
        draw_seed: Seed of the draws.
        positions: Where sets of layers are dropped: everywhere, or everywhere but at position 0.
        spare_ends: Leave the first and the last layer unchanged.
        batch_size: prompts or sequences per pass.

    Returns:
        A result. Random sets of dropped layers, and random orders: a row per draw and sequence. KL and
        losses in nats, agreement as a share, entropies in bits.
    """

def norms(
    model: Model,
    corpus: TokenCorpus,
    *,
    protocol: Literal['paper', 'corrected'] = 'corrected',
    batch_size: int = 8,
) -> Result:
    """Norms of what attention and MLPs write, and how far each layer rotates the residual stream.

    What each layer adds (Stages of Inference, section 5.4, Fig. 10, 12b and 20).

    The paper: The norm of the MLPs' outputs grows with depth and peaks in the last layers.

    Args:
        model: a HookedTransformer, a TransformerBridge, or an object that implements
            `mechicl.models.Adapter`.
        corpus: running text, from `mi.load_corpus`.
        protocol: corrected, or paper (reproduces the authors' code).
        batch_size: prompts or sequences per pass.

    Returns:
        A result. Norms of attention, MLP and residual: a row per sequence and layer. L2 norms over
        d_model, their ratios to the residual's, and cosines.
    """

def entropy_neurons(
    model: Model,
    corpus: TokenCorpus,
    *,
    neurons: int = 4,
    controls: int = 2,
    values: Sequence[float] = (0.0, 2.0, 4.0, 6.0),
    batch_size: int = 8,
) -> Result:
    """Entropy, loss and predictions when an entropy neuron is fixed to a value.

    Entropy neurons fixed to a value (Stages of Inference, section 5.4; Gurnee et al. 2024, section
    4.3).

    The paper: A few neurons of the last layers hardly favour any token but set the confidence of the
    prediction: fixing their activation changes its entropy, through the scale of the final norm.

    Args:
        model: a HookedTransformer, a TransformerBridge, or an object that implements
            `mechicl.models.Adapter`.
        corpus: running text, from `mi.load_corpus`.
        neurons: Number of entropy neurons, most neutral first.
        controls: Norm-matched control neurons per entropy neuron.
        values: Activations to which a neuron is fixed.
        batch_size: prompts or sequences per pass.

    Returns:
        A result. Entropy neurons and norm-matched controls fixed to values: a row per neuron, value and
        sequence. `held` is the value. Entropies in bits, losses and KL in nats, agreement as a share;
        `length` is the L2 norm of the last residual over the clean model's.
    """

def right_then_wrong(
    model: Model,
    corpus: TokenCorpus,
    *,
    untrained: int = 4,
    batch_size: int = 4,
) -> Result:
    """Tokens that the lens predicts correctly in the middle and the model wrongly at the end, and the reverse.

    Right, then wrong (Stages of Inference, section 5.4; a test of our own).

    The paper: The last layers calibrate the prediction.

    Args:
        model: a HookedTransformer, a TransformerBridge, or an object that implements
            `mechicl.models.Adapter`.
        corpus: running text, from `mi.load_corpus`.
        untrained: Number of untrained twins, each run on part of the input; 0 leaves claims that need
            them undecided.
        batch_size: prompts or sequences per pass.

    Returns:
        A result. Shares of each sequence's tokens, by the entropy of the clean prediction: a row per
        quantity and place. `arm` is lens (at the residual before `layer`), any (over all layers), or
        drop (with `layer` dropped). `value` is a share of `tokens` tokens; for `restored`, of those
        that late layers turn wrong; for `returned`, of all those whose prediction late layers change,
        the share that has the earlier prediction again.
    """

def inner_lexicon(
    model: Model,
    corpus: TokenCorpus,
    *,
    pieces: Sequence[int] = (2, 3),
    words: int = 150,
    context: int = 8,
    draw_seed: int = 0,
    batch_size: int = 50,
) -> Result:
    """How words spelt in several tokens become the word's own token, layer by layer; also phrases and meanings.

    The inner lexicon (after Kaplan et al. 2024 and Feucht et al. 2024; Stages of Inference, section
    5.1).

    The claim: The first layers merge the tokens of a word into a representation of the word.

    Args:
        model: a HookedTransformer, a TransformerBridge, or an object that implements
            `mechicl.models.Adapter`.
        corpus: running text, from `mi.load_corpus`.
        pieces: Tokens per spelling.
        words: Maximum number of words to distinguish.
        context: Tokens before each word.
        draw_seed: Seed of all draws.
        batch_size: prompts or sequences per pass.

    Returns:
        A result. A row per word (or pair, or token), kind, quantity and point: `value` is a share, a
        cosine, or nats. Arms: spelling (retrieval, cosine, kl of the next token at the last point), cut
        (retrieval before the middle layer), patch (kl), meaning (cosine), identity (accuracy). Point i
        is the residual before layer i; for a cut, layer i.
    """

def lesioned_icl(
    model: Model,
    prompts: PromptSet | Sequence[PromptSet] | Sequence[Prompt],
    *,
    batch_size: int = 16,
) -> Result:
    """In-context accuracy and information flow with each layer dropped.

    In-context learning with a layer left out (beyond Stages of Inference, section 4.1, and Label Words
    are Anchors, section 2.1).

    The claim: Both papers together suggest that early layers serve gathering at label words, and late
    layers reading by the target.

    Args:
        model: a HookedTransformer, a TransformerBridge, or an object that implements
            `mechicl.models.Adapter`.
        prompts: prompts of one or more tasks, from `task.prompts`.
        batch_size: prompts or sequences per pass.

    Returns:
        A result. Predictions and information flow with each layer dropped: a row per dropped layer and
        prompt. The predicted label, and S_wp, S_pq and S_ww of every layer; layer -1 is the clean
        model.
    """

def anchor_heads(
    model: Model,
    prompts: PromptSet | Sequence[PromptSet] | Sequence[Prompt],
    *,
    untrained: int = 4,
    k: int = 5,
    draws: int = 3,
    alone: int = 4,
    batch_size: int = 16,
) -> Result:
    """Reading and gathering of every head, and predictions without the strongest heads.

    Heads that gather and read (beyond Label Words are Anchors, section 2.1).

    The question: Which heads gather into label words and read them, and what is lost without them?

    Args:
        model: a HookedTransformer, a TransformerBridge, or an object that implements
            `mechicl.models.Adapter`.
        prompts: prompts of one or more tasks, from `task.prompts`.
        untrained: Number of untrained twins, each run on part of the input; 0 leaves claims that need
            them undecided.
        k: Number of heads ablated together; at most half of the model's.
        draws: Random draws of control heads.
        alone: Prompts per demonstration set for ablating each head alone; 0 skips this.
        batch_size: prompts or sequences per pass.

    Returns:
        A result. Two kinds of rows, by the column `part`. "heads", a row per prompt, layer and head:
        reading and gathering of label words and of random text, times an average token; their effects,
        saliency per edge beyond that of random text, in logits; `lost_alone`, the drop of the answer's
        logit relative to the other label words' mean when this head alone is set to its mean (for the
        first odd-numbered prompts, else NaN); induction and previous-token scores. "ablations", a row
        per odd-numbered prompt, arm (nothing; reading or gathering heads; controls of either, one row
        per draw) and method (zero, mean): gold and predicted class, label loyalty, word loyalty (k =
        5), accuracy, and loss on the prompt's texts, in nats.
    """

def anchor_sweep(
    model: Model,
    prompts: PromptSet | Sequence[PromptSet] | Sequence[Prompt],
    *,
    windows: Sequence[int] = (1,),
    mode: Literal['presoftmax', 'presoftmax_keep_0', 'postsoftmax_zero', 'postsoftmax_renorm'] = 'presoftmax',
    random_seed: int = 0,
    batch_size: int = 16,
) -> Result:
    """Isolation of label words and of other tokens, in every layer or window of layers.

    Which tokens are anchors, in which layers (beyond Label Words are Anchors, section 2.2).

    The question: Do label words, and not other tokens, gather the demonstrations' information, and in
    which layers?

    Args:
        model: a HookedTransformer, a TransformerBridge, or an object that implements
            `mechicl.models.Adapter`.
        prompts: prompts of one or more tasks, from `task.prompts`.
        windows: Numbers of consecutive layers isolated together.
        mode: How attention is cut: presoftmax (the authors' code), presoftmax_keep_0 (keeps the edge to
            position 0), postsoftmax_zero or postsoftmax_renorm.
        random_seed: Seed of the random text tokens.
        batch_size: prompts or sequences per pass.

    Returns:
        A result. A row per prompt, isolated kind of token and window of layers: the prediction. Gold
        and predicted class, label probabilities, and top-10 token ids.
    """

def decision_layer(
    model: Model,
    prompts: PromptSet | Sequence[PromptSet] | Sequence[Prompt],
    *,
    untrained: int = 4,
    batch_size: int = 16,
) -> Result:
    """Margin and probability of label words by layer, next to the layers that read them.

    When the answer is decided (beyond Label Words are Anchors, section 2.3).

    The question: Does the answer appear after the label words are read, as the paper's account implies?

    Args:
        model: a HookedTransformer, a TransformerBridge, or an object that implements
            `mechicl.models.Adapter`.
        prompts: prompts of one or more tasks, from `task.prompts`.
        untrained: Number of untrained twins, each run on part of the input; 0 leaves claims that need
            them undecided.
        batch_size: prompts or sequences per pass.

    Returns:
        A result. A row per prompt and point: the residual before each layer (0 to L - 1) and after the
        last (L). Gold and predicted class; from the lens at the target, the label words' log-
        probabilities and the predicted class's margin over the next, in nats; from the layer before the
        point (none for point 0), reading of label words and of random text, times an average token, and
        S_pq, in logits per edge.
    """

def shot_sweep(
    model: Model,
    prompts: PromptSet | Sequence[PromptSet] | Sequence[Prompt],
    *,
    untrained: int = 4,
    counts: Sequence[int] = (0, 1, 2, 4, 8, 16, 32),
    batch_size: int = 16,
) -> Result:
    """Accuracy, reading of label words, isolation and compression with 0 to 32 demonstrations per class.

    More demonstrations (beyond Label Words are Anchors, sections 2 and 3.2).

    The question: With more demonstrations, does reading stay in label words, and in which ones?

    Args:
        model: a HookedTransformer, a TransformerBridge, or an object that implements
            `mechicl.models.Adapter`.
        prompts: prompts of one or more tasks, from `task.prompts`.
        untrained: Number of untrained twins, each run on part of the input; 0 leaves claims that need
            them undecided.
        counts: Demonstrations per class; counts that context or data cannot hold are reduced.
        batch_size: prompts or sequences per pass.

    Returns:
        A result. A row per prompt and number of demonstrations (`shots` of each class). Gold and
        predicted class, accuracy; label loyalty with label words isolated in the first third of the
        layers, with the same number of text tokens isolated, and with label words and template alone;
        reading in deep layers, times an average token: of label words, random text, the last and the
        first half of the label words, and those of the predicted class and of the others. Without
        demonstrations there is only accuracy.
    """

def anchor_patching(
    model: Model,
    prompts: PromptSet | Sequence[PromptSet] | Sequence[Prompt],
    *,
    untrained: int = 4,
    sites: Sequence[Literal['resid_post', 'attn_out', 'mlp_out', 'keys_values']] = ('resid_post', 'attn_out', 'mlp_out', 'keys_values'),
    exact: int = 8,
    batch_size: int = 16,
) -> Result:
    """Activation patching of label words and other tokens, by layer: how much of the answer is restored.

    What label words carry (beyond Label Words are Anchors, sections 2.1 and 2.2).

    The question: Do predictions follow transplanted label words, and fail without them?

    Args:
        model: a HookedTransformer, a TransformerBridge, or an object that implements
            `mechicl.models.Adapter`.
        prompts: prompts of one or more tasks, from `task.prompts`.
        untrained: Number of untrained twins, each run on part of the input; 0 leaves claims that need
            them undecided.
        sites: What is patched in single layers: resid_post, attn_out, mlp_out, keys_values.
        exact: Prompts per set for the exact map; the first-order map uses all prompts.
        batch_size: prompts or sequences per pass.

    Returns:
        A result. A row per prompt, direction, site, kind of token and layer (-1: all layers at once).
        Gold, clean and twin answer; gap: logit difference between clean and twin; change: how far the
        transplant moves it towards the source prompt, in logits, and the resulting answer; attributed:
        change to first order (map only).
    """
