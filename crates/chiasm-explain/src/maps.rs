//! What is asked of an explanation, and what it is.

use crate::error::ExplainError;
use crate::layout::Places;

/// How a result is explained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Method {
    /// Attention of one layer: of words to places where both are fused, else of the class token.
    Attention,
    /// Attention of all layers multiplied, residuals included (Abnar and Zuidema, ACL 2020).
    Rollout,
    /// Grad-CAM at the last layer that looks at the picture: the last block of the image tower, or, of
    /// regions, the last fusion layer (`specs/itr.md` section 5.1).
    GradCam,
    /// Grad-CAM at the last fusion layer.
    GradCamFusion,
    /// Gradient-weighted relevance through all layers (Chefer et al., ICCV 2021).
    Relevance,
    /// What the result loses when a place is hidden.
    Occlusion,
}

impl Method {
    /// Every method.
    pub const ALL: [Self; 6] = [
        Self::Attention,
        Self::Rollout,
        Self::GradCam,
        Self::GradCamFusion,
        Self::Relevance,
        Self::Occlusion,
    ];

    /// As it is typed and written into files.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Attention => "attention",
            Self::Rollout => "rollout",
            Self::GradCam => "grad-cam",
            Self::GradCamFusion => "grad-cam-fusion",
            Self::Relevance => "relevance",
            Self::Occlusion => "occlusion",
        }
    }

    /// The method of a name.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|method| method.name() == name)
    }
}

/// What becomes of the heads of an attention map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heads {
    /// Their mean.
    Mean,
    /// The largest, place by place: how the published scripts read attention (`specs/scl.md` section 8).
    Max,
    /// One of them.
    One(usize),
    /// The softmax of the sum of their scores over what is shown, as ROSITA's demonstration does
    /// (`specs/tbkin.md` section 8.2). One stream alone, and without selection: a dropped score is minus
    /// infinity, and one of them would erase a place for all heads.
    ScoreSum,
}

impl Heads {
    /// As it is typed and written into files.
    #[must_use]
    pub fn name(self) -> String {
        match self {
            Self::Mean => "mean".to_owned(),
            Self::Max => "max".to_owned(),
            Self::One(head) => head.to_string(),
            Self::ScoreSum => "scoresum".to_owned(),
        }
    }

    /// What a name means.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        match name {
            "mean" | "probmean" => Some(Self::Mean),
            "max" => Some(Self::Max),
            "scoresum" => Some(Self::ScoreSum),
            number => number.parse().ok().map(Self::One),
        }
    }
}

/// How an explanation is made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Request {
    /// The method.
    pub method: Method,
    /// Heads of [`Method::Attention`] and [`Method::Rollout`].
    pub heads: Heads,
    /// Layer of [`Method::Attention`], from 0; the last one unless said.
    pub layer: Option<usize>,
    /// Whether Grad-CAM is smoothed by its first principal component.
    pub smooth: bool,
}

impl Request {
    /// With what each method is used with by default: the largest head of the last layer's attention,
    /// the mean of rollout's.
    #[must_use]
    pub fn new(method: Method) -> Self {
        let heads = match method {
            Method::Attention => Heads::Max,
            _ => Heads::Mean,
        };
        Self {
            method,
            heads,
            layer: None,
            smooth: false,
        }
    }

    /// What it is called in a table.
    #[must_use]
    pub fn label(&self) -> String {
        let name = self.method.name();
        match self.method {
            Method::GradCam | Method::GradCamFusion if self.smooth => format!("{name}, smooth"),
            _ => name.to_owned(),
        }
    }
}

/// An explanation, token by token.
#[derive(Clone, Debug, PartialEq)]
pub struct Maps {
    /// What was explained: the value of the target.
    pub score: f32,
    /// The region in question, where the target is one.
    pub region: Option<usize>,
    /// What maps are over.
    pub places: Places,
    /// Over the places, for the target as a whole.
    pub whole: Vec<f32>,
    /// Over the places, for each token of the text; none of a method that has one map alone.
    pub tokens: Option<Vec<Vec<f32>>>,
    /// How much each token of the text counts; empty where the method does not say.
    pub words: Vec<f32>,
    /// Keys that got any attention in the layer that was asked for, head by head, as a share;
    /// [`Method::Attention`] alone.
    pub kept: Vec<f32>,
}

/// A layer or head that is asked for, if it is there.
pub(crate) fn within(
    what: &'static str,
    number: usize,
    count: usize,
) -> Result<usize, ExplainError> {
    if number < count {
        return Ok(number);
    }
    Err(ExplainError::Range {
        what,
        number,
        count,
    })
}
