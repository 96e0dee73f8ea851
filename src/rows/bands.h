/* Bands: what panels with their lanes across the rows are worked on in. A panel's band holds a segment
   of all its rows as tiles. Panels that are treated together are read and written together, since each
   class may be on another page: one visit then moves a line for each of them. */

/* Classes that are read for their maximum before they are summed: 16 kB, half of an L1 cache. */
#define SEGMENT (8 * BLOCK)
/* So many lines of all panels are read before they are looked at. What will be read or written is asked
   for so many classes ahead as one set of a first-level cache holds: they may all belong there. */
#define LINES_AT_ONCE 256
#define SET_LINES 12
static inline ptrdiff_t classes_ahead(int panels)
{
    return panels < 4 ? SET_LINES : 4 * SET_LINES / panels;
}

/* The maximum of each row of a tile, from *most on, and its minimum. */
INLINE void tile_range(const real *x, ptrdiff_t n, vec *least, vec *most)
{
    vec low[2] = {*least, *least}, high[2] = {*most, *most};
    for (ptrdiff_t j = 0; j < n; j++) {
        const vec a = v_load(x + j * LANES);
        if (j % 2 == 0) {
            high[0] = v_max(a, high[0]);
            low[0] = v_min(a, low[0]);
        } else {
            high[1] = v_max(a, high[1]);
            low[1] = v_min(a, low[1]);
        }
    }
    *most = v_max(high[1], high[0]);
    *least = v_min(low[1], low[0]);
}

static inline ptrdiff_t segment_length(ptrdiff_t classes, ptrdiff_t j0)
{
    return classes - j0 < SEGMENT ? classes - j0 : SEGMENT;
}

INLINE void read_lines(xf_type type, const xf_rows *x, const xf_panel *p, int panels, ptrdiff_t j0,
                       ptrdiff_t n, ptrdiff_t at)
{
    const ptrdiff_t step = x->step, ahead = classes_ahead(panels) * step;
    const char *from[XF_TOGETHER];
    real *to[XF_TOGETHER];
    for (int k = 0; k < panels; k++) {
        from[k] = x[k].row[0] + j0 * step;
        to[k] = (real *)p[k].band + at * LANES;
    }
    for (ptrdiff_t j = 0; j < n; j++)
        for (int k = 0; k < panels; k++) {
            const char *line = from[k] + j * step;
            prefetch(line, ahead);
            read_class(line, type, LANES, to[k] + j * LANES);
        }
}

/* Reads classes [j0, j0 + n) of panels into their bands, from class `at` of these on. */
static inline void read_bands(const xf_rows *x, const xf_panel *p, int panels, ptrdiff_t j0,
                              ptrdiff_t n, ptrdiff_t at)
{
    int k = 0;
    while (panels > 1 && k < panels && side_by_side(x[k].row, LANES, x->type) == LANES)
        k++;
    if (k > 0 && x->type == REAL_TYPE)
        read_lines(REAL_TYPE, x, p, k, j0, n, at);
    else if (k > 0)
        read_lines(x->type, x, p, k, j0, n, at);
    for (; k < panels; k++)
        read_tile(x + k, j0, n, (real *)p[k].band + at * LANES);
}

/* The same of a whole segment, with the range of its rows if that is wanted: *least and *most of each
   panel. */
static inline void read_segment(const xf_rows *x, const xf_panel *p, int panels, ptrdiff_t j0,
                                ptrdiff_t n, vec *least, vec *most)
{
    const ptrdiff_t part = panels > 1 ? LINES_AT_ONCE / panels : BLOCK;
    for (int k = 0; least && k < panels; k++) {
        least[k] = v_set1(INFINITY);
        most[k] = v_set1(-INFINITY);
    }
    for (ptrdiff_t j = 0; j < n; j += part) {
        const ptrdiff_t length = n - j < part ? n - j : part;
        read_bands(x, p, panels, j0 + j, length, j);
        for (int k = 0; least && k < panels; k++)
            tile_range((real *)p[k].band + j * LANES, length, least + k, most + k);
    }
}

/* A whole line goes past the caches, if it shall. */
INLINE void write_lines(xf_type type, const xf_out *out, const xf_panel *p, int panels,
                        ptrdiff_t j0, ptrdiff_t n)
{
    const ptrdiff_t step = out->step, ahead = classes_ahead(panels) * step;
    char *to[XF_TOGETHER];
    const real *from[XF_TOGETHER];
    int rows[XF_TOGETHER];
    bool stream[XF_TOGETHER];
    for (int k = 0; k < panels; k++) {
        to[k] = out[k].row[0] + j0 * step;
        from[k] = p[k].band;
        rows[k] = p[k].rows;
        stream[k] = out->stream && rows[k] * size_of(type) == 64 &&
                    ((uintptr_t)to[k] | (uintptr_t)step) % 64 == 0;
    }
    for (ptrdiff_t j = 0; j < n; j++)
        for (int k = 0; k < panels; k++) {
            char *line = to[k] + j * step;
            const real *a = from[k] + j * LANES;
            if (stream[k]) {
                v_stream((real *)line, v_load(a));
                continue;
            }
            prefetch_to_write(line, ahead);
            if (rows[k] == LANES)
                write_class(line, type, LANES, a);
            else
                write_class(line, type, rows[k], a);
        }
}

/* Writes the segments in the bands. */
static inline void write_bands(const xf_out *out, const xf_panel *p, int panels, ptrdiff_t j0,
                               ptrdiff_t n)
{
    int k = 0;
    while (panels > 1 && k < panels &&
           side_by_side((const char *const *)out[k].row, p[k].rows, out->type) == p[k].rows)
        k++;
    if (k > 0 && out->type == REAL_TYPE)
        write_lines(REAL_TYPE, out, p, k, j0, n);
    else if (k > 0)
        write_lines(out->type, out, p, k, j0, n);
    for (; k < panels; k++)
        for (ptrdiff_t j = 0; j < n; j += BLOCK)
            write_tile(out + k, p[k].rows, j0 + j, block_length(n, j),
                       (real *)p[k].band + j * LANES, (char *)p->work->tile[2]);
}
