//! Every way in which an origin might read a request path.

/// The path is refused (`ambiguous_path`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Ambiguous {
    /// `.` or `..` as a segment, plain, encoded, or only in the eyes of some origins (`/a%2F../b`, `/..;x/`).
    #[error("the path has a dot segment (`.` or `..`), plain or encoded; send the path that is meant")]
    DotSegment,
    /// It mixes so many unusual spellings that nobody can say what an origin makes of it.
    #[error("the path can be read in too many ways; avoid `//`, `;`, `\\` and escapes of `/ ; \\ %` in it")]
    TooManyReadings,
    /// It does not begin with `/`.
    #[error("the path does not begin with `/`")]
    NoSlash,
}
