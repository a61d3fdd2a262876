FROM python:3.11.13-slim-bookworm
COPY . /src
RUN pip install --no-cache-dir -c /src/constraints.txt "/src[coordinator]" \
 && rm -rf /src \
 && install -d -o nobody -g nogroup /var/lib/foglearn
USER nobody
ENTRYPOINT ["fog-coordinator"]
