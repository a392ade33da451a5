//! What the families grown out of BERT share: the sizes in their configuration, and how names in
//! their files were spelt before.

use super::keys::Keys;
use crate::config::TextConfig;
use crate::weights::WeightError;

/// Sizes of the text side, with so many layers.
pub(crate) fn text_config(keys: Keys<'_>, layers: usize) -> Result<TextConfig, WeightError> {
    let hidden_size = keys.size("hidden_size")?;
    Ok(TextConfig {
        vocab_size: keys.size("vocab_size")?,
        hidden_size,
        layers,
        num_heads: keys.heads("num_attention_heads", hidden_size)?,
        intermediate_size: keys.size("intermediate_size")?,
        max_text_len: keys.size("max_position_embeddings")?,
        position_rows: 0,
        position_offset: 0,
        type_rows: keys.size("type_vocab_size")?,
        activation: keys.activation("hidden_act")?,
        layer_norm_eps: keys.number_or("layer_norm_eps", 1e-12)?,
        dropout: 0.0,
    })
}

/// A found name below one of `prefixes`, with the parameters of norms as they are called today. `None`
/// for buffers and what begins with one of `heads`.
pub(crate) fn canonical(found: &str, prefixes: &[&str], heads: &[&str]) -> Option<String> {
    let name = found.strip_prefix("module.").unwrap_or(found);
    let below = prefixes.iter().find_map(|prefix| name.strip_prefix(prefix));
    let name = below.unwrap_or(name);
    let is_buffer = name.ends_with(".position_ids") || name.ends_with(".token_type_ids");
    if is_buffer || heads.iter().any(|head| name.starts_with(head)) {
        return None;
    }
    Some(match name.rsplit_once('.') {
        Some((module, "gamma")) => format!("{module}.weight"),
        Some((module, "beta")) => format!("{module}.bias"),
        _ => name.to_owned(),
    })
}
