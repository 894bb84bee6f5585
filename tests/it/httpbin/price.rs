//! The example's price list a second time, by hand: what a test may expect without asking the code under test.

/// The example's meters.
pub(super) const METERS: [&str; 2] = ["api_units", "images"];

/// What one answer costs.
pub(super) struct Price {
    /// As the books name it.
    pub(super) route: &'static str,
    /// Per meter that the route counts on.
    pub(super) units: Vec<(&'static str, u64)>,
}

/// What `status` to `method` on `path` costs.
pub(super) fn of(method: &str, path: &str, status: u16) -> Price {
    let first = path.split('/').nth(1).unwrap_or_default();
    // HEAD and OPTIONS pay as GET does.
    let method = if matches!(method, "HEAD" | "OPTIONS") { "GET" } else { method };
    let below = path.split('/').count() > 2;
    let (route, cost, images) = match (method, first) {
        ("GET", "get") => ("GET /get", 1, 0),
        ("POST", "post") => ("POST /post", 2, 0),
        ("PUT", "put") => ("PUT /put", 3, 0),
        ("PATCH", "patch") => ("PATCH /patch", 2, 0),
        (_, "anything") if below => ("* /anything/{*rest}", 1, 0),
        (_, "anything") => ("* /anything", 1, 0),
        (_, "gzip") => ("* /gzip", 1, 0),
        (_, "deflate") => ("* /deflate", 1, 0),
        (_, "brotli") => ("* /brotli", 1, 0),
        (_, "html") => ("* /html", 1, 0),
        (_, "bytes") => ("* /bytes/{n}", 2, 0),
        (_, "range") => ("* /range/{n}", 2, 0),
        (_, "stream-bytes") => ("* /stream-bytes/{n}", 2, 0),
        (_, "stream") => ("* /stream/{n}", 2, 0),
        (_, "drip") => ("* /drip", 3, 0),
        (_, "delay") => ("* /delay/{n}", 5, 0),
        (_, "status") => ("* /status/{code}", 1, 0),
        (_, "image") if below => ("* /image/{*rest}", 1, 1),
        (_, "image") => ("* /image", 1, 1),
        _ => ("default", 1, 0),
    };
    let charged = matches!(status, 200..400) || (first == "status" && status >= 200);
    let units = |units| if charged { units } else { 0 };
    let mut of_meters = vec![(METERS[0], units(cost))];
    if images > 0 {
        of_meters.push((METERS[1], units(images)));
    }
    Price { route, units: of_meters }
}

/// What the header `X-Tollgate-Cost` says: units of all meters together.
pub(super) fn announced(method: &str, path: &str, status: u16) -> u64 {
    of(method, path, status).units.iter().map(|(_, units)| units).sum()
}

/// Whether a request goes through without a credential: public routes, and what browsers ask before they call.
pub(super) fn is_open(method: &str, path: &str) -> bool {
    method == "OPTIONS" || path.starts_with("/static/") || ["/", "/robots.txt", "/forms/post"].contains(&path)
}
