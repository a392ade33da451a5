//! Pictures of requests: told apart, decoded under caps.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chiasm_data::{AlphaRule, Limits, Rgb, decode};

use crate::error::ApiError;

/// What a request's picture may cost.
#[derive(Clone, Copy, Debug)]
pub struct PictureLimits {
    /// Bytes as they are sent, decoded from base64. Default: 16 MiB.
    pub max_bytes: usize,
    /// Width times height. Default: 40 million.
    pub max_pixels: u64,
}

impl Default for PictureLimits {
    fn default() -> Self {
        Self {
            max_bytes: 16 << 20,
            max_pixels: 40_000_000,
        }
    }
}

/// Where a request says that a picture is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Named<'a> {
    /// In the request, as base64.
    Here(&'a str),
    /// An item of the index.
    Item(&'a str),
    /// Behind an https address.
    There(&'a str),
}

/// Tells what a picture's string means.
pub(crate) fn named<'a>(picture: &'a str, param: &'static str) -> Result<Named<'a>, ApiError> {
    if let Some(id) = picture.strip_prefix("item:") {
        return Ok(Named::Item(id));
    }
    if let Some(rest) = picture.strip_prefix("data:") {
        return match rest.split_once(";base64,") {
            Some((kind, data)) if kind.starts_with("image/") => Ok(Named::Here(data)),
            _ => Err(ApiError::field(
                param,
                "a data URL of a picture begins with `data:image/...;base64,`",
            )),
        };
    }
    match picture.split_once("://") {
        Some((scheme, _)) if scheme.eq_ignore_ascii_case("https") => Ok(Named::There(picture)),
        Some((scheme, _)) if scheme.chars().all(|letter| letter.is_ascii_alphanumeric()) => {
            Err(ApiError::field(
                param,
                format!(
                    "pictures behind `{scheme}` addresses are not fetched; send the picture itself as a \
                     data URL, `data:image/...;base64,...`"
                ),
            ))
        }
        _ => Ok(Named::Here(picture)),
    }
}

/// Where a server does not fetch pictures.
pub(crate) fn not_fetched(param: &'static str) -> ApiError {
    ApiError::field(
        param,
        "this server does not fetch pictures (`chiasm serve --fetch` does); send the picture itself as a \
         data URL, `data:image/...;base64,...`",
    )
}

/// Decodes a picture from base64.
pub(crate) fn from_base64(
    data: &str,
    limits: &PictureLimits,
    param: &'static str,
) -> Result<Arc<Rgb>, ApiError> {
    if data.len() / 4 * 3 > limits.max_bytes {
        return Err(ApiError::field(
            param,
            format!(
                "the picture has more than {} bytes; send a smaller one",
                limits.max_bytes
            ),
        ));
    }
    let bytes = STANDARD.decode(data).map_err(|error| {
        ApiError::field(
            param,
            format!(
                "neither a data URL, nor `item:ID`, nor base64 ({error}); send \
                 `data:image/jpeg;base64,...`"
            ),
        )
    })?;
    from_bytes(&bytes, limits, param)
}

/// Decodes a picture under the caps, as evaluation does: turned as its EXIF data say, over white.
pub(crate) fn from_bytes(
    bytes: &[u8],
    limits: &PictureLimits,
    param: &'static str,
) -> Result<Arc<Rgb>, ApiError> {
    let limits = Limits {
        max_bytes: limits.max_bytes as u64,
        max_pixels: limits.max_pixels,
        ..Limits::default()
    };
    let picture = decode(bytes, &limits, true, AlphaRule::OverWhite).map_err(|error| {
        let hint = error
            .hint()
            .map_or_else(String::new, |hint| format!("; {hint}"));
        ApiError::field(param, format!("the picture cannot be used: {error}{hint}"))
    })?;
    Ok(Arc::new(picture))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_are_told_apart() {
        assert_eq!(named("item:a.jpg", "image").unwrap(), Named::Item("a.jpg"));
        assert_eq!(
            named("data:image/png;base64,QUJD", "image").unwrap(),
            Named::Here("QUJD")
        );
        assert_eq!(named("QUJD", "image").unwrap(), Named::Here("QUJD"));
        assert_eq!(
            named("https://a.b/c.jpg", "image").unwrap(),
            Named::There("https://a.b/c.jpg")
        );
        for wrong in [
            "http://a.b/c.jpg",
            "file:///etc/passwd",
            "data:text/html;base64,QUJD",
            "data:image/png,x",
        ] {
            assert!(named(wrong, "image").is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_no_picture_is_refused() {
        let limits = PictureLimits {
            max_bytes: 1 << 20,
            max_pixels: 1_000_000,
        };
        let zeros = STANDARD.encode(vec![0_u8; 100_000]);
        let large = STANDARD.encode(vec![0_u8; 2 << 20]);
        // A PNG that says it is 60,000 by 60,000.
        let mut header = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR".to_vec();
        header.extend(60_000_u32.to_be_bytes());
        header.extend(60_000_u32.to_be_bytes());
        header.extend([8, 2, 0, 0, 0, 0, 0, 0, 0]);
        let header = STANDARD.encode(header);
        for wrong in [
            zeros.as_str(),
            large.as_str(),
            header.as_str(),
            "no base64!",
            "",
        ] {
            let error = from_base64(wrong, &limits, "image").unwrap_err();
            assert!(
                matches!(
                    error,
                    ApiError::Request {
                        param: Some("image"),
                        ..
                    }
                ),
                "{error}"
            );
        }
    }
}
