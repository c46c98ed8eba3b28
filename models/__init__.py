"""Methods of self-supervised learning, their losses, backbones and heads."""

from __future__ import annotations

import difflib
import sys
from dataclasses import fields, replace
from typing import Any, Literal, NamedTuple

from headrace.models.method import Context, Method, ParameterGroup, Piece, Tower
from headrace.models.methods.joint.barlow_twins import BarlowTwins, BarlowTwinsConfig
from headrace.models.methods.joint.byol import BYOL, BYOLConfig
from headrace.models.methods.joint.deepcluster import DeepCluster, DeepClusterConfig
from headrace.models.methods.joint.deepcluster_v2 import DeepClusterV2, DeepClusterV2Config
from headrace.models.methods.joint.densecl import DenseCL, DenseCLConfig
from headrace.models.methods.joint.dino import DINO, DINOConfig
from headrace.models.methods.joint.dinov2 import DINOv2, DINOv2Config
from headrace.models.methods.joint.dinov2_gram import DINOv2Gram, DINOv2GramConfig
from headrace.models.methods.joint.ibot import IBOT, IBOTConfig
from headrace.models.methods.joint.instance_discrimination import (
    InstanceDiscrimination,
    InstanceDiscriminationConfig,
)
from headrace.models.methods.joint.lejepa import LeJEPA, LeJEPAConfig
from headrace.models.methods.joint.moco import MoCoV2, MoCoV2Config
from headrace.models.methods.joint.moco_v1 import MoCoV1, MoCoV1Config
from headrace.models.methods.joint.moco_v3 import MoCoV3, MoCoV3Config
from headrace.models.methods.joint.msn import MSN, MSNConfig
from headrace.models.methods.joint.nnclr import NNCLR, NNCLRConfig
from headrace.models.methods.joint.ressl import ReSSL, ReSSLConfig
from headrace.models.methods.joint.simclr import SimCLR, SimCLRConfig
from headrace.models.methods.joint.simsiam import SimSiam, SimSiamConfig
from headrace.models.methods.joint.swav import SwAV, SwAVConfig
from headrace.models.methods.joint.tico import TiCo, TiCoConfig
from headrace.models.methods.joint.vicreg import VICReg, VICRegConfig
from headrace.models.methods.joint.w_mse import WMSE, WMSEConfig
from headrace.models.methods.masked.aim import AIM, AIMConfig
from headrace.models.methods.masked.beit import BEiT, BEiTConfig
from headrace.models.methods.masked.capi import CAPI, CAPIConfig
from headrace.models.methods.masked.data2vec import Data2Vec, Data2VecConfig
from headrace.models.methods.masked.data2vec2 import Data2Vec2, Data2Vec2Config
from headrace.models.methods.masked.ijepa import IJEPA, IJEPAConfig
from headrace.models.methods.masked.mae import MAE, MAEConfig
from headrace.models.methods.masked.maskfeat import MaskFeat, MaskFeatConfig
from headrace.models.methods.masked.simmim import SimMIM, SimMIMConfig
from headrace.models.methods.pairs.clip import CLIP, CLIPConfig
from headrace.models.methods.pretext.autoencoder import Autoencoder, AutoencoderConfig
from headrace.models.methods.pretext.block_order import BlockOrder, BlockOrderConfig
from headrace.models.methods.pretext.colorization import Colorization, ColorizationConfig
from headrace.models.methods.pretext.context_prediction import ContextPrediction, ContextPredictionConfig
from headrace.models.methods.pretext.denoising_autoencoder import DenoisingAutoencoder, DenoisingAutoencoderConfig
from headrace.models.methods.pretext.inpainting import Inpainting, InpaintingConfig
from headrace.models.methods.pretext.jigsaw import Jigsaw, JigsawConfig
from headrace.models.methods.pretext.rotation import Rotation, RotationConfig
from headrace.models.methods.pretext.vae import VAE, VAEConfig
from headrace.models.methods.sound.byol_a import BYOLA, BYOLAConfig
from headrace.models.methods.sound.cpc import CPC, CPCConfig
from headrace.models.methods.sound.data2vec_audio import Data2VecAudio, Data2VecAudioConfig
from headrace.models.methods.sound.hubert import HuBERT, HuBERTConfig
from headrace.models.methods.sound.masked_spectrogram import MaskedSpectrogram, MaskedSpectrogramConfig
from headrace.models.methods.sound.wav2vec2 import Wav2Vec2, Wav2Vec2Config
from headrace.models.methods.text.albert import ALBERT, ALBERTConfig
from headrace.models.methods.text.bart import BART, BARTConfig
from headrace.models.methods.text.bert import BERT, BERTConfig
from headrace.models.methods.text.electra import ELECTRA, ELECTRAConfig
from headrace.models.methods.text.modernbert import ModernBERT, ModernBERTConfig
from headrace.models.methods.text.roberta import RoBERTa, RoBERTaConfig
from headrace.models.methods.text.simcse import SimCSE, SimCSEConfig
from headrace.models.methods.text.t5 import T5, T5Config
from headrace.models.methods.video.arrow_of_time import ArrowOfTime, ArrowOfTimeConfig
from headrace.models.methods.video.clip_order import ClipOrder, ClipOrderConfig
from headrace.models.methods.video.cvrl import CVRL, CVRLConfig
from headrace.models.methods.video.frame_order import FrameOrder, FrameOrderConfig
from headrace.models.methods.video.monodepth2 import Monodepth2, Monodepth2Config
from headrace.models.methods.video.odd_one_out import OddOneOut, OddOneOutConfig
from headrace.models.methods.video.pace import Pace, PaceConfig
from headrace.models.methods.video.rho_byol import RhoBYOL, RhoBYOLConfig
from headrace.models.methods.video.rho_moco import RhoMoCo, RhoMoCoConfig
from headrace.models.methods.video.rho_simclr import RhoSimCLR, RhoSimCLRConfig
from headrace.models.methods.video.rho_swav import RhoSwAV, RhoSwAVConfig
from headrace.models.methods.video.sfmlearner import SfMLearner, SfMLearnerConfig
from headrace.models.methods.video.sorting import Sorting, SortingConfig
from headrace.models.methods.video.speediness import Speediness, SpeedinessConfig
from headrace.models.methods.video.time_contrastive import TimeContrastive, TimeContrastiveConfig
from headrace.models.methods.video.videomae import VideoMAE, VideoMAEConfig
from headrace.models.methods.video.videomae_v2 import VideoMAEV2, VideoMAEV2Config
from headrace.models.methods.video.vjepa import VJEPA, VJEPAConfig
from headrace.models.methods.video.vjepa2 import VJEPA2, VJEPA2Config
from headrace.models.parts.backbones import BackboneConfig, build_backbone
from headrace.models.seeding import seeded

__all__ = [
    "METHODS",
    "BackboneConfig",
    "Context",
    "Method",
    "MethodEntry",
    "ParameterGroup",
    "Piece",
    "Tower",
    "build_backbone",
    "build_method",
]


class MethodEntry(NamedTuple):
    """A method, what configures it, and what a person wants to know of it."""

    config: type[Any]
    """Keyword-only dataclass; its defaults are the authors' values."""
    method: type[Method]
    """Built from an instance of `config`."""
    family: Literal["joint", "masked", "pretext", "video", "text", "sound", "pairs"]
    """joint: views agree; masked: predict what is hidden; pretext: labels from the data itself; these three of images.
    video, text, sound: methods of these. pairs: of an image with its text, sound, depth or points."""
    paper: str
    """arXiv number, or where else it appeared."""
    followed: str
    """Whose code, and which files, at a commit where one is known."""
    deviates: str = ""
    """In what, and why."""

    @property
    def link(self) -> str | None:
        """Where arXiv has the paper."""
        return f"https://arxiv.org/abs/{self.paper}" if self.paper[0].isdigit() else None

    @property
    def title(self) -> str:
        """The first line of what the method's file says of it."""
        return (sys.modules[self.method.__module__].__doc__ or "").splitlines()[0]


METHODS: dict[str, MethodEntry] = {
    "simclr": MethodEntry(
        SimCLRConfig,
        SimCLR,
        "joint",
        "2002.05709",
        "google-research/simclr: tf2/objective.py, model.py, lars_optimizer.py, data_util.py",
        "the loss is the mean over 2N views, half of the code's; views are normalised; torchvision's crop and colours, "
        "resized with antialiasing",
    ),
    "moco_v1": MethodEntry(
        MoCoV1Config,
        MoCoV1,
        "joint",
        "1911.05722",
        "facebookresearch/moco at 4397a04: moco/builder.py, main_moco.py",
    ),
    "moco_v2": MethodEntry(
        MoCoV2Config,
        MoCoV2,
        "joint",
        "2003.04297",
        "facebookresearch/moco at 4397a04: moco/builder.py, main_moco.py",
        "a Gaussian blur in the place of PIL's box filters",
    ),
    "byol": MethodEntry(
        BYOLConfig,
        BYOL,
        "joint",
        "2006.07733",
        "google-deepmind/deepmind-research at f5de0ed: byol/byol_experiment.py, utils",
        "no linear classifier beside the loss; resizing with antialiasing; brightness multiplies",
    ),
    "barlow_twins": MethodEntry(
        BarlowTwinsConfig,
        BarlowTwins,
        "joint",
        "2103.03230",
        "facebookresearch/barlowtwins at 8e8d284: main.py",
        "the norm before the correlation keeps no running statistics, which nothing would use; a Gaussian blur in the "
        "place of PIL's box filters",
    ),
    "swav": MethodEntry(
        SwAVConfig,
        SwAV,
        "joint",
        "2006.09882",
        "facebookresearch/swav at 06b1b7c: main_swav.py, src/resnet50.py, src/multicropdataset.py",
        "queues are gathered over ranks, of which each takes its own part, so that a run goes on with other ranks; "
        "a Gaussian blur in the place of PIL's box filters",
    ),
    "deepcluster": MethodEntry(
        DeepClusterConfig,
        DeepCluster,
        "joint",
        "1807.05520",
        "facebookresearch/deepcluster at 2d1927e: main.py, clustering.py, util.py, models/vgg16.py",
        "samples are weighed by the inverse of their cluster's size instead of drawn by it, which is equal in "
        "expectation; VGG-16, as timm has no AlexNet; features of the whole centred square, not of its inner 7/8; "
        "scikit-learn's k-means, which moves an empty cluster to the farthest point instead of splitting a large one",
    ),
    "deepcluster_v2": MethodEntry(
        DeepClusterV2Config,
        DeepClusterV2,
        "joint",
        "2006.09882",
        "facebookresearch/swav at 06b1b7c: main_deepclusterv2.py, src/resnet50.py, src/multicropdataset.py, "
        "scripts/deepclusterv2_800ep_pretrain.sh",
        "all ranks keep all embeddings instead of their own, so that a run goes on with other ranks; the pass before "
        "the first epoch is in the order of the set; the loss is the mean over all ranks' samples that have clusters; "
        "a Gaussian blur in the place of PIL's box filters",
    ),
    "dino": MethodEntry(
        DINOConfig,
        DINO,
        "joint",
        "2104.14294",
        "facebookresearch/dino at 7c446df: main_dino.py, utils.py, vision_transformer.py",
        "a Gaussian blur in the place of PIL's box filters",
    ),
    "ibot": MethodEntry(
        IBOTConfig,
        IBOT,
        "joint",
        "2111.07832",
        "bytedance/ibot at da316d8: main_ibot.py, loader.py, models/head.py, models/vision_transformer.py",
        "class tokens and patches share all of the head, as in the published runs; counts of hidden patches are exact; "
        "in the layer decay, which theirs has not, the mask token belongs to the first layer; a Gaussian blur in the "
        "place of PIL's box filters",
    ),
    "dinov2": MethodEntry(
        DINOv2Config,
        DINOv2,
        "joint",
        "2304.07193",
        "facebookresearch/dinov2 at b8931f7: dinov2/train/ssl_meta_arch.py, loss, layers, data, utils/param_groups.py, "
        "configs",
        "one of each sample's two large views has hidden patches, where theirs choose half of a batch's views, and "
        "shares of hidden patches are not spread evenly over a batch; the patches' centre is of hidden patches of all "
        "ranks, without the rows that only fill their buffer; the drop path leaves out samples one by one, not a fixed "
        "number of them; the last layers' moments begin behind the frozen epochs; the layer decay counts the last norm "
        "to the last block",
    ),
    "dinov2_gram": MethodEntry(
        DINOv2GramConfig,
        DINOv2Gram,
        "joint",
        "2508.10104",
        "facebookresearch/dinov3 at 6876159: dinov3/train/ssl_meta_arch.py, loss/gram_loss.py, data/augmentations.py, "
        "configs/train/dinov3_vit7b16_gram_anchor.yaml",
        "DINOv3's anchoring of DINOv2's network, heads and schedules, without its rotary positions and its heads "
        "without weight norm; the anchor begins as the teacher that the stage starts from, where theirs may be an "
        "earlier one; what deviates in DINOv2 does here, too",
    ),
    "moco_v3": MethodEntry(
        MoCoV3Config,
        MoCoV3,
        "joint",
        "2104.02057",
        "facebookresearch/moco-v3 at c349e6e: moco/builder.py, main_moco.py, vits.py, CONFIG.md",
        "a Gaussian blur in the place of PIL's box filters",
    ),
    "simsiam": MethodEntry(
        SimSiamConfig,
        SimSiam,
        "joint",
        "2011.10566",
        "facebookresearch/simsiam at a7bc177: simsiam/builder.py, main_simsiam.py",
        "the projector's last layer has no bias, which theirs freezes in front of a batch norm; the cosine falls with "
        "every step instead of every epoch; a Gaussian blur in the place of PIL's box filters",
    ),
    "nnclr": MethodEntry(
        NNCLRConfig,
        NNCLR,
        "joint",
        "2104.14548",
        "the paper; lightly-ai/lightly at e8d317f: models/modules/heads.py; solo-learn at 9187ea3: methods/nnclr.py",
        "no authors' code is known, and several of the paper's numbers could not be checked",
    ),
    "densecl": MethodEntry(
        DenseCLConfig,
        DenseCL,
        "joint",
        "2011.09157",
        "WXinlong/DenseCL at b64bbb6: openselfsup/models/densecl.py, necks.py, "
        "configs/selfsup/densecl/densecl_imagenet_200ep.py",
        "the cosine falls with every step instead of every epoch; a Gaussian blur in the place of PIL's box filters",
    ),
    "ressl": MethodEntry(
        ReSSLConfig,
        ReSSL,
        "joint",
        "2107.09282",
        "KyleZheng1997/ReSSL at 4d67daa: main.py, models/ressl.py",
        "a Gaussian blur in the place of PIL's box filters",
    ),
    "vicreg": MethodEntry(
        VICRegConfig,
        VICReg,
        "joint",
        "2105.04906",
        "facebookresearch/vicreg at 4e12602: main_vicreg.py, augmentations.py",
        "a Gaussian blur in the place of PIL's box filters",
    ),
    "w_mse": MethodEntry(
        WMSEConfig,
        WMSE,
        "joint",
        "2007.06346",
        "htdt/self-supervised at d9662c8: methods/w_mse.py, whitening.py, norm_mse.py, base.py, model.py, cfg.py, "
        "train.py, datasets/transforms.py, datasets/imagenet.py",
        "views are cropped before their colours change; AdamW decouples a decay that is too small to matter in their "
        "Adam; a Gaussian blur in the place of PIL's box filters",
    ),
    "tico": MethodEntry(
        TiCoConfig,
        TiCo,
        "joint",
        "2206.10698",
        "lightly-ai/lightly at e8d317f: loss/tico_loss.py, benchmarks/imagenet/resnet50/tico.py",
        "no authors' code is known; the slow network moves behind the optimiser's step instead of before the loss",
    ),
    "lejepa": MethodEntry(
        LeJEPAConfig,
        LeJEPA,
        "joint",
        "2511.08544",
        "rbalestr-lab/lejepa at eddffdd: README.md, MINIMAL.md, lejepa/univariate/epps_pulley.py, "
        "lejepa/multivariate/slicing.py",
        "a ResNet-50 with its own features in the place of a ViT whose classifier of 512 outputs is the embedding; a "
        "blur with a kernel of a tenth of the view's side, of which the README says nothing",
    ),
    "msn": MethodEntry(
        MSNConfig,
        MSN,
        "joint",
        "2204.07141",
        "facebookresearch/msn at 4388dc1: src/msn_train.py, losses.py, deit.py, data_manager.py, utils.py, "
        "configs/pretrain/msn_vits16.yaml",
        "patches are dropped for each sample by itself instead of the same of all; the prototypes' gradient is the "
        "mean over ranks, so that ranks train as one process does, instead of the sum, which AdamW does not tell "
        "apart; positions of small views are resized with antialiasing; a Gaussian blur in the place of PIL's box "
        "filters",
    ),
    "instance_discrimination": MethodEntry(
        InstanceDiscriminationConfig,
        InstanceDiscrimination,
        "joint",
        "1805.01978",
        "zhirongw/lemniscate.pytorch at f7cfe29: main.py, lib/NCEAverage.py, NCECriterion.py, LinearAverage.py",
        "rows of the memory move behind the optimiser's step instead of in the backward pass, to the same values; z is "
        "estimated over the ranks",
    ),
    "mae": MethodEntry(
        MAEConfig,
        MAE,
        "masked",
        "2111.06377",
        "facebookresearch/mae at efb2a80: models_mae.py, main_pretrain.py, util/pos_embed.py",
    ),
    "ijepa": MethodEntry(
        IJEPAConfig,
        IJEPA,
        "masked",
        "2301.08243",
        "facebookresearch/ijepa at 52c1ae9: src/train.py, src/models/vision_transformer.py, src/masks/multiblock.py, "
        "src/transforms.py, src/helper.py, configs/in1k_vith14_ep300.yaml",
        "each sample has blocks of its own sizes, which may reach the last row and column, and its whole context, see "
        "ContextMask in views.md; the warm-up begins at zero instead of a fifth of the peak",
    ),
    "aim": MethodEntry(
        AIMConfig,
        AIM,
        "masked",
        "2401.08541",
        "apple/ml-aim at bd9e068: aim/torch/layers.py, aim/torch/models.py; the paper for what trains",
        "what trains is not published: crops, the head's width and the mean over all patches behind the prefixes of a "
        "batch could not be checked; the head is as in lightly-ai/lightly, pull request 1479, whose author asked the "
        "paper's; features for probes are averaged over patches instead of pooled with attention",
    ),
    "data2vec2": MethodEntry(
        Data2Vec2Config,
        Data2Vec2,
        "masked",
        "2212.07525",
        "facebookresearch/fairseq at 3d262bb2: examples/data2vec/models/data2vec2.py, models/modalities, "
        "config/v2/base_images_only_task.yaml; fairseq/data/data_utils.py",
        "the class token's loss is a mean with the weight that its sum has on their GPUs; no noise stands for hidden "
        "patches in evaluation mode",
    ),
    "capi": MethodEntry(
        CAPIConfig,
        CAPI,
        "masked",
        "2502.08769",
        "facebookresearch/capi at 98b4fa1: train_capi.py, model.py, data.py, utils.py, default_pretrain_config.yaml",
        "paths are dropped sample by sample, where theirs drop them for a fixed share of a batch; the learning rate's "
        "cosine ends at a tenth of the peak, where theirs is cut off at four fifths of its length",
    ),
    "simmim": MethodEntry(
        SimMIMConfig,
        SimMIM,
        "masked",
        "2111.09886",
        "microsoft/SimMIM at d3e29bc: models/simmim.py, models/vision_transformer.py, models/swin_transformer.py, "
        "data/data_simmim.py, optimizer.py, configs",
    ),
    "maskfeat": MethodEntry(
        MaskFeatConfig,
        MaskFeat,
        "masked",
        "2112.09133",
        "facebookresearch/SlowFast at 287ec00: slowfast/models/masked.py, operators.py, head_helper.py, "
        "video_model_builder.py, configs/masked_ssl/in1k_VIT_B_MaskFeat_PT.yaml",
        "where ten tries place no block, single patches fill the mask up to its number",
    ),
    "data2vec": MethodEntry(
        Data2VecConfig,
        Data2Vec,
        "masked",
        "2202.03555",
        "facebookresearch/data2vec_vision at af9a363: beit/modeling_cyclical.py, engine_for_cyclical.py, "
        "run_cyclical.py, datasets.py, optim_factory.py, README.md",
        "colours change behind the crop, so that contrast goes by its mean; where ten tries place no block, single "
        "patches fill the mask up to its number; the slow network computes in the run's precision, theirs in float32",
    ),
    "beit": MethodEntry(
        BEiTConfig,
        BEiT,
        "masked",
        "2106.08254",
        "microsoft/unilm at 768a3c8: beit/modeling_pretrain.py, engine_for_pretraining.py, datasets.py, "
        "masking_generator.py, run_beit_pretraining.py",
        "the tokenizer is not BEiT's, and BEiT's numbers are not this method's: words are k-means clusters of "
        "MaskFeat's oriented gradients, found in the training set itself, as DALL-E's tokenizer was trained on private "
        "pictures; colours change behind the crop, so that contrast goes by its mean; where ten tries place "
        "no block, single patches fill the mask up to its number",
    ),
    "rotation": MethodEntry(
        RotationConfig,
        Rotation,
        "pretext",
        "1803.07728",
        "gidariss/FeatureLearningRotNet: dataloader.py, algorithms/ClassificationModel.py",
        "a ResNet-50 in the place of their AlexNet, which timm has not",
    ),
    "autoencoder": MethodEntry(
        AutoencoderConfig,
        Autoencoder,
        "pretext",
        "ICML 2008",
        "lisa-lab/DeepLearningTutorials at 11c4651: code/dA.py",
        "a convolutional network, which is Headrace's own, is there to be asked for",
    ),
    "denoising_autoencoder": MethodEntry(
        DenoisingAutoencoderConfig,
        DenoisingAutoencoder,
        "pretext",
        "ICML 2008",
        "lisa-lab/DeepLearningTutorials at 11c4651: code/dA.py",
        "a fixed number of inputs of each picture is lost, as in the paper, so that the loader draws which; the code "
        "draws for each input by itself",
    ),
    "vae": MethodEntry(
        VAEConfig,
        VAE,
        "pretext",
        "1312.6114",
        "the paper, appendices B and C; pytorch/examples at 0a8329c: vae/main.py",
        "no authors' code is known; the cross entropy without the constant of a continuous Bernoulli distribution, "
        "which the example has added since",
    ),
    "colorization": MethodEntry(
        ColorizationConfig,
        Colorization,
        "pretext",
        "1603.08511",
        "richzhang/colorization at 4aa459f: models/colorization_train_val_v2.prototxt, train/solver.prototxt, "
        "resources/caffe_traininglayers.py; the bins of junyanz/interactive-deep-colorization at 0ee4d11",
        "the frequency of colours is that of the set itself, found out before the first step, in the place of a file "
        "of ImageNet's; weights begin as He et al. draw them, where theirs come from a file; the loss is a mean over "
        "places; crops are squares of a share of the image, which theirs makes square first; the paper's regression is "
        "an option, as it differs in the last layer and the loss alone",
    ),
    "inpainting": MethodEntry(
        InpaintingConfig,
        Inpainting,
        "pretext",
        "1604.07379",
        "pathak22/context-encoder at 68abd11: train.lua, train_random.lua, README.md",
        "crops of a share of the image, which theirs resizes to a shorter side of 350 first; regions that lie anywhere "
        "are the paper's rectangles, of each picture by itself, in the place of one piece of a pattern for a whole "
        "batch; convolutions have no biases, which theirs sets to 0 at every step; features are the bottleneck of a "
        "whole view, where the paper trained an AlexNet without the adversarial part for them",
    ),
    "context_prediction": MethodEntry(
        ContextPredictionConfig,
        ContextPrediction,
        "pretext",
        "1505.05192",
        "cdoersch/deepcontext at 5307282: train.py, solver_mko.prototxt, README.md",
        "a ResNet-50, whose norms scale and shift, in the place of their CaffeNet, which timm has not; pairs drawn one "
        "by one instead of all neighbours of a grid, the loss their mean instead of their sum; noise in the place of "
        "dropped colours is the paper's Gaussian one instead of the code's uniform one, and is there before resolution "
        "is lost; patches have a root mean square of 1 instead of 50 levels",
    ),
    "jigsaw": MethodEntry(
        JigsawConfig,
        Jigsaw,
        "pretext",
        "1603.09246",
        "MehdiNoroozi/JigsawPuzzleSolver at 8c7ec09: caffe-master-jps++/src/caffe/data_transformer.cpp, "
        "train_val_cfn_jps.prototxt, solver_cfn_jps.prototxt",
        "a ResNet-50 in the place of their AlexNet, which timm has not; the paper's 1000 orders, as many as the code's "
        "classifier has outputs, where its files hold 100 and 701, chosen by the paper's algorithm from the identity "
        "on; shifted colours stay inside the cell, which they may leave by two pixels; grey by torchvision's weights "
        "instead of the mean; tiles divided by ImageNet's deviation",
    ),
    "block_order": MethodEntry(
        BlockOrderConfig,
        BlockOrder,
        "pretext",
        "1704.02729",
        "rfsantacruz/deep-perm-net at d3dccc3: models/train_val_grid3.prototxt, solver_trainval_grid3.prototxt, "
        "caffe-perm/src/caffe/layers",
        "the published method nearest to predicting the order of image blocks; a ResNet-50 in the place of their "
        "AlexNet, which timm has not; tiles divided by ImageNet's deviation",
    ),
    "bert": MethodEntry(
        BERTConfig,
        BERT,
        "text",
        "1810.04805",
        "google-research/bert at eedf571: modeling.py, run_pretraining.py, create_pretraining_data.py, optimization.py",
        "masks are drawn anew in each epoch instead of ten times for all; segments are cut between words instead of "
        "sentences, and exactly half of the pairs are broken on average; all texts may be as long as the longest; "
        "AdamW corrects its bias, which theirs does not",
    ),
    "roberta": MethodEntry(
        RoBERTaConfig,
        RoBERTa,
        "text",
        "1907.11692",
        "facebookresearch/fairseq at 3d262bb: fairseq/data/mask_tokens_dataset.py, criterions/masked_lm.py, "
        "models/roberta, examples/roberta/config/pretraining/base.yaml",
        "texts are not packed into blocks of 512 tokens; hidden whole words fill a number of tokens, where theirs are "
        "a share of the words",
    ),
    "t5": MethodEntry(
        T5Config,
        T5,
        "text",
        "1910.10683",
        "google-research/text-to-text-transfer-transformer at e081111: t5/data/preprocessors.py, gin files; "
        "tensorflow/mesh: mesh_tensorflow/transformer",
        "texts are not packed; the loss is the mean over the labels that there are, where theirs divides by all places "
        "of the batch; dropout is drawn for each place by itself",
    ),
    "albert": MethodEntry(
        ALBERTConfig,
        ALBERT,
        "text",
        "1909.11942",
        "google-research/albert at b772393: create_pretraining_data.py, run_pretraining.py, modeling.py",
        "masks are drawn anew in each epoch; of a text of one sentence the order of two halves is asked, cut where a "
        "word begins, where theirs takes a second segment of another text; words are the tokenizer's; all texts may be "
        "as long as the longest; no LAMB",
    ),
    "bart": MethodEntry(
        BARTConfig,
        BART,
        "text",
        "1910.13461",
        "facebookresearch/fairseq at 3d262bb: fairseq/data/denoising_dataset.py, models/bart; flags of its issue 1899",
        "texts are not packed; a full stop is the token that is written so, and words are the tokenizer's; features "
        "are the encoder's mean, where the paper takes the decoder's last state",
    ),
    "electra": MethodEntry(
        ELECTRAConfig,
        ELECTRA,
        "text",
        "2003.10555",
        "google-research/electra at 8a46635: run_pretraining.py, configure_pretraining.py, "
        "pretrain/pretrain_helpers.py, model/modeling.py",
        "places to fill in are drawn without replacement: theirs are drawn with it, and where one comes twice the two "
        "tokens' mean number stands; texts come in one piece, where theirs are two segments; AdamW corrects its bias, "
        "which theirs does not",
    ),
    "simcse": MethodEntry(
        SimCSEConfig,
        SimCSE,
        "text",
        "2104.08821",
        "princeton-nlp/SimCSE at 49fa580: simcse/models.py, train.py, README.md",
        "ranks pass gradient to each other's texts, so that they train as one process does; no checkpoint is chosen by "
        "labelled pairs",
    ),
    "modernbert": MethodEntry(
        ModernBERTConfig,
        ModernBERT,
        "text",
        "2412.13663",
        "AnswerDotAI/ModernBERT at 8c57a0f: yamls/modernbert/modernbert-base-pretrain.yaml; transformers' network",
        "texts are padded instead of packed; exactly 30 % of the tokens are to be predicted, where theirs are drawn "
        "one by one; no dropout behind attention, which theirs has at 0.1; AdamW in the place of StableAdamW",
    ),
    "clip": MethodEntry(
        CLIPConfig,
        CLIP,
        "pairs",
        "2103.00020",
        "openai/CLIP at d05afc4: clip/model.py; mlfoundations/open_clip at 89fb801: src/open_clip/loss.py, params.py",
        "a text's state is read where its last token stands, which need not be the largest; blocks of the image tower "
        "begin as timm draws them",
    ),
    "videomae": MethodEntry(
        VideoMAEConfig,
        VideoMAE,
        "video",
        "2203.12602",
        "MCG-NJU/VideoMAE at 14ef8d8: modeling_pretrain.py, modeling_finetune.py, engine_for_pretraining.py, "
        "masking_generator.py, optim_factory.py, transforms.py, scripts",
        "crops of any side and place, where theirs have ten shapes and thirteen places; features are the mean of the "
        "tokens behind the last norm, which their fine-tuning replaces by a new one behind the mean",
    ),
    "videomae_v2": MethodEntry(
        VideoMAEV2Config,
        VideoMAEV2,
        "video",
        "2303.16727",
        "OpenGVLab/VideoMAEv2 at 29eab1e: models/modeling_pretrain.py, engine_for_pretraining.py, "
        "dataset/masking_generator.py, optim_factory.py, scripts/pretrain",
        "one crop of a clip, where theirs take four of each that is decoded; what deviates in VideoMAE does here, too",
    ),
    "vjepa": MethodEntry(
        VJEPAConfig,
        VJEPA,
        "video",
        "2404.08471",
        "facebookresearch/jepa at 51c59d5: app/vjepa/train.py, utils.py, transforms.py, src/masks/multiblock3d.py, "
        "src/models, configs/pretrain/vitl16.yaml",
        "each sample draws the size of its blocks, where theirs draw it for a batch; contexts are cut to a fixed share "
        "of a clip instead of the shortest of a batch, and targets not at all; gradients are clipped from the first "
        "step; probes see the mean of the tokens, where theirs train an attentive pooling",
    ),
    "vjepa2": MethodEntry(
        VJEPA2Config,
        VJEPA2,
        "video",
        "2506.09985",
        "facebookresearch/vjepa2 at c2963a4: app/vjepa/train.py, utils.py, src/models, "
        "src/masks/multiseq_multiblock3d.py, configs/train",
        "the two numbers of a pair turn by one angle, where theirs have two by a mistake that their weights need "
        "(tiled_frequencies); frames are a fixed number apart instead of a fixed time; without the stage of longer "
        "clips behind it; what deviates in V-JEPA does here, too",
    ),
    "monodepth2": MethodEntry(
        Monodepth2Config,
        Monodepth2,
        "video",
        "1806.01260",
        "nianticlabs/monodepth2 at b676244: trainer.py, layers.py, networks, datasets, options.py",
        "frames are squeezed into squares; the principal point counts from the picture's corner, half a pixel from "
        "theirs, and is mirrored with it; sampling keeps corners aligned, as the torch of that time did; for smaller "
        "scales pictures are averaged, not resized by PIL; colours do not change",
    ),
    "sfmlearner": MethodEntry(
        SfMLearnerConfig,
        SfMLearner,
        "video",
        "1704.07813",
        "tinghuiz/SfMLearner at 65f71f1: SfMLearner.py, utils.py, nets.py, data_loader.py",
        "monodepth2's networks, which see a pair of frames for each motion, in the place of theirs; no mask of "
        "explainability, as in their published figures; crops do not change; frames and cameras as in monodepth2",
    ),
    "frame_order": MethodEntry(
        FrameOrderConfig,
        FrameOrder,
        "video",
        "1603.08561",
        "imisra/shuffle-tuple at 5d27dfa: networks/tuple_train.prototxt, tuple_solver.prototxt; the paper for what is "
        "shown",
        "a ResNet-50 and one layer for each frame in the place of CaffeNet, which timm has not; triples from any "
        "place of the video, at equal distances of four lengths, where theirs are of moments of much motion; the "
        "largest centred square; how triples are drawn is not published as code",
    ),
    "sorting": MethodEntry(
        SortingConfig,
        Sorting,
        "video",
        "1708.01246",
        "HsinYingLee/OPN at d0ba14e: UCF_datalayers.py, train_opn.prototxt, solver_opn.prototxt",
        "a ResNet-50 in the place of CaffeNet, which timm has not; patches anywhere in the frame, where theirs follow "
        "motion, and frames at equal distances; levels are divided by a deviation; weights begin as torch draws them",
    ),
    "clip_order": MethodEntry(
        ClipOrderConfig,
        ClipOrder,
        "video",
        "CVPR 2019",
        "xudejing/video-clip-order-prediction at 7a1710d: train_vcop.py, models/vcopn.py, datasets/ucf101.py",
        "torchvision's R3D with one block a stage in the place of their own; crops are resized once, with antialiasing",
    ),
    "pace": MethodEntry(
        PaceConfig,
        Pace,
        "video",
        "2008.05861",
        "laura-wang/video-pace at cc1e561: train.py, datasets/ucf101.py, README.md",
        "the classification of paces alone, as their code is, without the paper's contrast of clips; torchvision's "
        "R(2+1)D with one block a stage in the place of their own; clips lie inside the video, where theirs begin "
        "anywhere and go on from its first frame, a cut that tells a high pace; frames are normalised",
    ),
    "speediness": MethodEntry(
        SpeedinessConfig,
        Speediness,
        "video",
        "2004.06130",
        "the paper, section 3",
        "no authors' code is known, and several of the paper's numbers could not be checked; torchvision's R3D-18 in "
        "the place of S3D-G; frames lie at equal distances of a drawn rate, rounded down, where the paper leaves them "
        "out at random; clips are not resized at random",
    ),
    "odd_one_out": MethodEntry(
        OddOneOutConfig,
        OddOneOut,
        "video",
        "1611.06646",
        "the paper, sections 3 and 4",
        "no authors' code is known, and several of the paper's numbers could not be checked; a ResNet-50 in the place "
        "of AlexNet, which timm has not; grey differences; a score for each clip from the sum of its differences from "
        "the others, so that no position has weights of its own",
    ),
    "arrow_of_time": MethodEntry(
        ArrowOfTimeConfig,
        ArrowOfTime,
        "video",
        "CVPR 2018",
        "donglaiw/AoT_TCAM: models/vggbn_tcam_pair2_cudnn.lua, opts.lua",
        "differences of frames, or frames, in the place of optical flow, which would have to be computed; so colours "
        "and light are there to be read; videos are not stabilised and black borders stay; a ResNet-50 in the place "
        "of VGG-16; each clip in both directions in one batch",
    ),
    "time_contrastive": MethodEntry(
        TimeContrastiveConfig,
        TimeContrastive,
        "video",
        "1704.06888",
        "tensorflow/models at ebafe28: research/tcn/estimators/svtcn_loss.py, svtcn_estimator.py, model.py, "
        "preprocessing.py, configs/tcn_default.yml",
        "one view; a ResNet-50 trained from the beginning, with its pooling, in the place of an Inception of "
        "ImageNet's labels, kept as it is, and key points of two convolutions; several videos a batch, each by "
        "itself; brightness multiplies",
    ),
    "cvrl": MethodEntry(
        CVRLConfig,
        CVRL,
        "video",
        "2008.03800",
        "tensorflow/models at 0225b13: official/projects/video_ssl, ops/video_ssl_preprocess_ops.py, "
        "dataloaders/video_ssl_input.py, losses/losses.py, modeling/video_ssl_model.py, configs",
        "torchvision's R3D-18 in the place of R3D-50; the distance in time by the inverse of its distribution, where "
        "theirs is found by bisection; clips of a video that is too short begin with it",
    ),
    "rho_simclr": MethodEntry(
        RhoSimCLRConfig,
        RhoSimCLR,
        "video",
        "2104.14558",
        "facebookresearch/SlowFast at 287ec00: slowfast/models/contrastive.py, head_helper.py, "
        "configs/contrastive_ssl/SimCLR_SlowR50_8x8.yaml, tools/train_net.py",
        "torchvision's R3D-18 in the place of Slow-only R50; all clips in one backward pass instead of one after the "
        "other, which gives the same gradient; a Gaussian blur in the place of PIL's box filters",
    ),
    "rho_moco": MethodEntry(
        RhoMoCoConfig,
        RhoMoCo,
        "video",
        "2104.14558",
        "facebookresearch/SlowFast at 287ec00: slowfast/models/contrastive.py, head_helper.py, "
        "configs/contrastive_ssl/MoCo_SlowR50_8x8.yaml, tools/train_net.py",
        "as rho_simclr; the queue begins with rows of length 1",
    ),
    "rho_byol": MethodEntry(
        RhoBYOLConfig,
        RhoBYOL,
        "video",
        "2104.14558",
        "facebookresearch/SlowFast at 287ec00: slowfast/models/contrastive.py, head_helper.py, "
        "configs/contrastive_ssl/BYOL_SlowR50_8x8.yaml, tools/train_net.py",
        "as rho_simclr; 2 - 2 cos in the place of -2 cos",
    ),
    "rho_swav": MethodEntry(
        RhoSwAVConfig,
        RhoSwAV,
        "video",
        "2104.14558",
        "facebookresearch/SlowFast at 287ec00: slowfast/models/contrastive.py, tools/train_net.py",
        "as rho_simclr; no queue; its settings are not published, so that the projector and the rates are rho-SimCLR's",
    ),
    "masked_spectrogram": MethodEntry(
        MaskedSpectrogramConfig,
        MaskedSpectrogram,
        "sound",
        "2207.06405",
        "facebookresearch/AudioMAE at bd60e29: models_mae.py, models_vit.py, dataset.py, main_pretrain.py, "
        "submit_pretrain_audioset2M.sh, timm_patch/swin_transformer.py",
        "positions are those of (time, band), where their code takes the grid's sides the wrong way round; gains are "
        "drawn uniformly in dB, with the deviation of their Beta(10, 10) + 0.5; their roll of the wave, which by a "
        "mistake never rolls, is left out; the temperatures of the decoder's attention are learnt by their logarithm",
    ),
    "wav2vec2": MethodEntry(
        Wav2Vec2Config,
        Wav2Vec2,
        "sound",
        "2006.11477",
        "facebookresearch/fairseq at 3d262bb: fairseq/models/wav2vec/wav2vec2.py, modules/gumbel_vector_quantizer.py, "
        "criterions/wav2vec_criterion.py, data/data_utils.py, "
        "examples/wav2vec/config/pretraining/wav2vec2_base_librispeech.yaml",
        "crops have one length, and shorter sounds start again, where theirs cut a batch to its shortest; each sound "
        "has as many hidden frames as theirs on average, where theirs drop frames down to the batch's fewest; "
        "negatives of the same codes are told by their numbers instead of their vectors; the codes' shares are of all "
        "ranks' frames",
    ),
    "hubert": MethodEntry(
        HuBERTConfig,
        HuBERT,
        "sound",
        "2106.07447",
        "facebookresearch/fairseq at 3d262bb: fairseq/models/hubert/hubert.py, criterions/hubert_criterion.py, "
        "data/data_utils.py, examples/hubert/simple_kmeans, config/pretrain/hubert_base_librispeech.yaml",
        "labels are those of the crop by itself, found in every step, where theirs are of whole sounds, found once; "
        "centres are found with the middle of each sound; crops and hidden frames as in wav2vec 2.0 here",
    ),
    "data2vec_audio": MethodEntry(
        Data2VecAudioConfig,
        Data2VecAudio,
        "sound",
        "2202.03555",
        "facebookresearch/fairseq at 3d262bb: examples/data2vec/models/data2vec_audio.py, "
        "config/audio/pretraining/base_librispeech.yaml, fairseq/modules/ema_module.py",
        "waves are normalised crop by crop instead of before they are cut; crops and hidden frames as in wav2vec 2.0 "
        "here",
    ),
    "cpc": MethodEntry(
        CPCConfig,
        CPC,
        "sound",
        "1807.03748",
        "facebookresearch/CPC_audio at b98a1bd: cpc/model.py, criterion/criterion.py, transformers.py, train.py, "
        "cpc_default_config.py",
        "negatives are of the same crop, which is an option of theirs, instead of the batch's, whose sounds are of one "
        "speaker; crops are drawn from each sound in each epoch, where theirs cut sounds joined together",
    ),
    "byol_a": MethodEntry(
        BYOLAConfig,
        BYOLA,
        "sound",
        "2103.06695",
        "nttcslab/byol-a at 3e65c92: train.py, config.yaml, byol_a/augmentations.py, models.py, dataset.py, "
        "byol_pytorch.diff",
        "the sound that is mixed in is any other of the set instead of one of the last 2,048, and a crop of its own; "
        "spectrograms are normalised by a mean and deviation that the configuration states instead of by running ones; "
        "padding stands behind a sound instead of at both ends; views are normalised over all ranks",
    ),
}
"""Every method by the name that the command line uses."""


def build_method(name: str, config: Any = None, *, seed: int = 0, **overrides: Any) -> Method:
    """The method `name` with random weights, which are a function of its config and `seed`.

    Args:
        config: an instance of the method's config class; None takes the paper's values.
        overrides: fields of the config to change.

    Raises:
        ValueError: naming the unknown method or field and the nearest known one, or the field with a bad value.
    """
    if name not in METHODS:
        raise ValueError(f"unknown method {name!r}" + _did_you_mean(name, METHODS))
    entry = METHODS[name]
    config = entry.config() if config is None else config
    if not isinstance(config, entry.config):
        raise ValueError(f"{name} is configured by {entry.config.__name__}, got {type(config).__name__}")
    known = [f.name for f in fields(entry.config)]
    for key in overrides:
        if key not in known:
            raise ValueError(f"{entry.config.__name__} has no field {key!r}" + _did_you_mean(key, known))
    config = replace(config, **overrides)
    with seeded(seed):
        return entry.method(config)


def _did_you_mean(name: str, known: Any) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(sorted(known))}"
