//! How many parameters a model has, from its sizes alone (`specs/scl.md` section 1.8).

use crate::config::{
    FusionConfig, FusionKind, HeadsConfig, ModelConfig, NormPlace, ProjectionKind, RegionConfig,
    RegionPlace, TextConfig, VisionConfig,
};
use crate::select::RuleName;

/// Numbers in the parts of a model; what is trained depends on which of them a loss reaches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ParameterCount {
    /// Text tower.
    pub text: usize,
    /// Image tower, or what makes tokens of regions.
    pub vision: usize,
    /// Maps of both towers to the fusion width.
    pub transforms: usize,
    /// Fusion encoder and its token types.
    pub fusion: usize,
    /// Summaries of both fused streams.
    pub poolers: usize,
    /// Both maps into the contrastive space, and the temperature.
    pub projections: usize,
    /// Matching head.
    pub match_head: usize,
    /// Masked-word head.
    pub mlm_head: usize,
    /// Classifier; 0 where there is none.
    pub class_head: usize,
    /// Ranking head; 0 where there is none.
    pub rank_head: usize,
    /// Head for masked regions; 0 where there is none.
    pub region_head: usize,
    /// Head that finds regions; 0 where there is none.
    pub ground_head: usize,
    /// Head over groups found without labels; 0 where there is none.
    pub cluster_head: usize,
}

impl ParameterCount {
    /// All parts together.
    #[must_use]
    pub fn total(&self) -> usize {
        let towers = self.text + self.vision + self.transforms;
        let fused = self.fusion + self.poolers;
        let pairs = self.match_head + self.class_head + self.rank_head;
        let heads = pairs + self.mlm_head + self.region_head + self.ground_head + self.cluster_head;
        towers + fused + self.projections + heads
    }
}

impl ModelConfig {
    /// Parameters of a model of these sizes.
    #[must_use]
    pub fn parameters(&self) -> usize {
        self.parameter_parts().total()
    }

    /// Parameters of a model of these sizes, part by part.
    #[must_use]
    pub fn parameter_parts(&self) -> ParameterCount {
        let width = self.fusion.hidden_size;
        let towers = [self.text.hidden_size, self.vision.hidden_size];
        let [text_width, image_width] = self.stream_widths();
        let projection = |width: usize| match self.heads.projection {
            ProjectionKind::Mlp => {
                linear(width, width) + norm(width) + linear(width, self.projection_size)
            }
            ProjectionKind::Linear => width * self.projection_size,
        };
        let HeadsConfig {
            classes, ranking, ..
        } = self.heads;
        let (inner, pooled) = (2 * width, self.pooled_size());
        let class_head =
            linear(self.heads.pictures() * pooled, inner) + norm(inner) + linear(inner, classes);
        let (words, two_streams) = (self.text.vocab_size, self.sums_up_both());
        let transform = linear(width, width) + norm(width);
        let word_transform = linear(text_width, text_width) + norm(text_width);
        let decoder = if two_streams {
            linear(text_width, words)
        } else {
            words
        };
        let when = |there: bool, count: usize| if there { count } else { 0 };
        let regions = |of: &dyn Fn(&RegionConfig) -> usize| self.regions.as_ref().map_or(0, of);
        let heads = &self.heads;
        ParameterCount {
            text: text(&self.text),
            vision: match &self.regions {
                None => vision(&self.vision),
                Some(regions) => {
                    let width = self.vision.hidden_size;
                    let place = match regions.place {
                        RegionPlace::Added => linear(5, width),
                        RegionPlace::Averaged => linear(4, width) + norm(width),
                        RegionPlace::Unused => 0,
                    };
                    let layers = regions.layers * fusion_block(&self.fusion);
                    linear(regions.features, width) + place + norm(width) + layers
                }
            },
            transforms: when(
                two_streams && !self.is_towers_alone(),
                towers.map(|tower| linear(tower, width)).iter().sum(),
            ),
            fusion: when(!self.is_towers_alone(), fusion(&self.fusion) + self.gates()),
            poolers: when(heads.pooler, linear(text_width, text_width))
                + when(
                    heads.pooler && two_streams,
                    linear(image_width, image_width),
                ),
            projections: when(
                heads.contrastive,
                projection(text_width) + projection(image_width) + 1,
            ),
            match_head: when(heads.matching, linear(pooled, 2)),
            mlm_head: when(heads.mlm, word_transform + decoder),
            class_head: when(classes > 0, class_head),
            rank_head: when(ranking, linear(pooled, 1)),
            region_head: when(
                heads.masked_regions,
                regions(&|regions| {
                    let wanted = [regions.features, regions.objects, regions.attributes];
                    transform
                        + wanted
                            .map(|count| linear(width, count))
                            .iter()
                            .sum::<usize>()
                }),
            ),
            ground_head: when(
                heads.grounding,
                regions(&|_| transform + linear(width, 1) + linear(width, 4)),
            ),
            cluster_head: when(heads.clusters > 0, linear(pooled, heads.clusters)),
        }
    }

    /// Thresholds of learned selection in the fusion encoder.
    fn gates(&self) -> usize {
        let select = self.select.as_ref();
        if select.is_some_and(|select| select.rule == RuleName::Learned) {
            self.fusion.layers * self.fusion.num_heads
        } else {
            0
        }
    }
}

/// Weight and bias.
fn linear(input: usize, output: usize) -> usize {
    (input + 1) * output
}

/// Gain and bias.
fn norm(width: usize) -> usize {
    2 * width
}

/// Queries, keys, values and output map, with their norm.
fn attention(width: usize) -> usize {
    4 * linear(width, width) + norm(width)
}

/// Both position-wise maps, with their norm.
fn feed_forward(width: usize, intermediate: usize) -> usize {
    linear(width, intermediate) + linear(intermediate, width) + norm(width)
}

fn text(config: &TextConfig) -> usize {
    let width = config.hidden_size;
    let rows = config.vocab_size + config.position_table() + config.type_rows;
    let layer = attention(width) + feed_forward(width, config.intermediate_size);
    rows * width + norm(width) + config.layers * layer
}

fn vision(config: &VisionConfig) -> usize {
    let width = config.hidden_size;
    let patch = 3 * config.patch_size * config.patch_size * width;
    let class_and_positions = 2 + config.num_patches();
    let bias_and_mask = usize::from(config.patch_bias) + usize::from(config.mask_token);
    let rows = class_and_positions + bias_and_mask + config.max_frames + config.registers;
    let norms = usize::from(config.layers > 0) + usize::from(config.pre_norm);
    let block = attention(width) + feed_forward(width, config.intermediate_size);
    patch + rows * width + norms * norm(width) + config.layers * block
}

fn fusion(config: &FusionConfig) -> usize {
    let (width, block) = (config.hidden_size, fusion_block(config));
    match config.kind {
        FusionKind::OneStream => {
            let last = usize::from(config.norm == NormPlace::Before) * norm(width);
            config.layers * block + last
        }
        FusionKind::Crossed => config.layers * (attention(width) + 2 * block),
        FusionKind::TwoStreams => {
            config.type_rows * width + 2 * config.layers * (attention(width) + block)
        }
    }
}

/// A layer of one stream of the fusion encoder.
fn fusion_block(config: &FusionConfig) -> usize {
    let width = config.hidden_size;
    attention(width) + feed_forward(width, config.intermediate_size)
}

#[cfg(test)]
mod tests {
    use burn::module::Module;
    use burn::tensor::Device;

    use super::*;
    use crate::VisionLanguageModel;
    use crate::layers::Init;
    use crate::select::SelectConfig;

    fn tiny() -> ModelConfig {
        let mut config = ModelConfig {
            projection_size: 5,
            ..ModelConfig::default()
        };
        let text = &mut config.text;
        (text.vocab_size, text.hidden_size, text.layers) = (11, 6, 2);
        (text.num_heads, text.intermediate_size, text.max_text_len) = (2, 7, 9);
        let vision = &mut config.vision;
        (vision.image_size, vision.patch_size, vision.layers) = (12, 4, 3);
        (
            vision.hidden_size,
            vision.num_heads,
            vision.intermediate_size,
        ) = (8, 2, 10);
        let fusion = &mut config.fusion;
        (fusion.hidden_size, fusion.layers) = (4, 2);
        (fusion.num_heads, fusion.intermediate_size) = (2, 13);
        config
    }

    fn built(config: &ModelConfig) -> usize {
        let init = Init::new(0, 0.02, &Device::flex());
        VisionLanguageModel::new(&init, config).num_params()
    }

    #[test]
    fn equals_the_count_of_a_built_model() {
        let plain = tiny();
        let mut full = tiny();
        full.text.position_rows = 20;
        full.text.type_rows = 2;
        full.vision.patch_bias = true;
        full.vision.registers = 3;
        full.vision.max_frames = 4;
        full.vision.mask_token = true;
        full.fusion.type_rows = 3;
        full.heads = HeadsConfig {
            classes: 17,
            pictures: 2,
            ranking: true,
            ..HeadsConfig::default()
        };
        let mut bare = tiny();
        bare.vision.pre_norm = false;
        bare.heads.classes = 1;
        bare.heads.contrastive = false;
        let mut regions = tiny();
        regions.regions = Some(RegionConfig {
            features: 9,
            objects: 5,
            attributes: 3,
            ..RegionConfig::default()
        });
        regions.heads.masked_regions = true;
        regions.heads.grounding = true;
        let mut one_stream = regions.clone();
        one_stream.fusion.kind = FusionKind::OneStream;
        one_stream.text.layers = 0;
        one_stream.fusion.hidden_size = 6;
        one_stream.vision.hidden_size = 6;
        one_stream.heads.classes = 4;
        one_stream.select = Some(SelectConfig {
            rule: RuleName::Learned,
            value: 0.1,
            ..SelectConfig::default()
        });
        let mut crossed = one_stream.clone();
        (crossed.fusion.kind, crossed.text.layers) = (FusionKind::Crossed, 2);
        if let Some(regions) = &mut crossed.regions {
            (regions.place, regions.layers) = (RegionPlace::Averaged, 3);
        }
        let mut patches = one_stream.clone();
        (patches.regions, patches.vision.layers) = (None, 0);
        patches.fusion.norm = NormPlace::Before;
        (patches.heads.masked_regions, patches.heads.grounding) = (false, false);
        let mut towers = tiny();
        towers.fusion.layers = 0;
        let mut plain_towers = towers.clone();
        plain_towers.heads.clusters = 4;
        plain_towers.heads.pooler = false;
        plain_towers.heads.projection = ProjectionKind::Linear;
        towers.heads.clusters = 2;
        let streams = [plain, full, bare, regions, one_stream, crossed, patches];
        for config in streams.into_iter().chain([towers, plain_towers]) {
            assert_eq!(config.parameters(), built(&config), "{config:?}");
        }
    }

    /// `specs/scl.md` section 1.8, counted from the published checkpoint.
    #[test]
    fn the_published_size() {
        let mut config = ModelConfig::default();
        config.text.position_rows = 514;
        config.text.vocab_size = 50_265;
        config.vision.mask_token = true;
        let parts = config.parameter_parts();
        assert_eq!(parts.text, 124_055_040);
        assert_eq!(parts.vision, 78_809_856 + 768);
        assert_eq!(parts.mlm_head, 39_245_913);
        assert_eq!(config.parameters(), 359_871_580);
    }

    /// `specs/tbkin.md` section 1.7.
    #[test]
    fn the_published_sizes_over_regions() {
        let trunk = rosita();
        let parts = trunk.parameter_parts();
        assert_eq!(parts.text, 23_837_184);
        assert_eq!(parts.vision, 1_579_776);
        assert_eq!(parts.fusion, 85_054_464);
        assert_eq!(parts.poolers, 590_592);
        assert_eq!(trunk.parameters(), 111_062_016);
        let with = |edit: &dyn Fn(&mut HeadsConfig)| {
            let mut config = rosita();
            edit(&mut config.heads);
            config.parameters()
        };
        assert_eq!(with(&|heads| heads.classes = 3129), 117_055_545);
        assert_eq!(with(&|heads| heads.grounding = true), 111_657_989);
        assert_eq!(with(&|heads| heads.matching = true), 111_063_554);
        let pretraining = |heads: &mut HeadsConfig| {
            (heads.matching, heads.mlm, heads.masked_regions) = (true, true, true);
        };
        assert_eq!(with(&pretraining), 115_391_244);
    }

    fn rosita() -> ModelConfig {
        let mut config = ModelConfig {
            regions: Some(RegionConfig::default()),
            ..ModelConfig::default()
        };
        let text = &mut config.text;
        (text.vocab_size, text.layers, text.type_rows) = (30_522, 0, 2);
        (text.position_rows, text.position_offset) = (512, 0);
        let fusion = &mut config.fusion;
        (fusion.kind, fusion.layers) = (FusionKind::OneStream, 12);
        let heads = &mut config.heads;
        (heads.contrastive, heads.matching, heads.mlm) = (false, false, false);
        config
    }
}
